default_scope = "trn_plugin"
runner_type = "trn_plugin.SafeRunner"
custom_imports = dict(imports=["trn_plugin.registry"], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=20),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    similarity_plot=dict(type="SimilarityPlotHook"),
)
custom_hooks = []

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
log_processor = dict(window_size=20)
log_level = "INFO"
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="Visualizer", vis_backends=vis_backends)

randomness = dict(seed=0)
load_from = None
resume = False
resume_schedule = "checkpoint"
save_on_sigterm = False
non_finite = "stop"
