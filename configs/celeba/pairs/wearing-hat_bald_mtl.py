_base_ = "../../_base_/celeba_pair.py"

pair = dict(groups=dict(att1=["Wearing_Hat"], att2=["Bald"]))
train_dataloader = dict(dataset=pair)
val_dataloader = dict(dataset=pair)
test_dataloader = dict(dataset=pair)
