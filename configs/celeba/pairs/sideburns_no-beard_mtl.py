_base_ = "../../_base_/celeba_pair.py"

pair = dict(groups=dict(att1=["Sideburns"], att2=["No_Beard"]))
train_dataloader = dict(dataset=pair)
val_dataloader = dict(dataset=pair)
test_dataloader = dict(dataset=pair)
