_base_ = "../../_base_/celeba_pair.py"

pair = dict(groups=dict(att1=["Male"], att2=["Bags_Under_Eyes"]))
train_dataloader = dict(dataset=pair)
val_dataloader = dict(dataset=pair)
test_dataloader = dict(dataset=pair)
