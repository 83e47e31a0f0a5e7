_base_ = "mtfl.py"

input_size = 64
toy_faces = dict(type="ToyFaces", data_root="data/toy_faces", input_size=input_size)

train_dataloader = dict(batch_size=64, dataset=toy_faces)
val_dataloader = dict(batch_size=64, dataset=toy_faces)
test_dataloader = dict(
    batch_size=64, dataset=dict(**toy_faces, pipeline={{_base_.val_dataloader.dataset.pipeline}})
)
