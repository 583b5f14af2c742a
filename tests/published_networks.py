"""The networks of the papers, as arguments of `make_conv_network`.

All have LayerNorm where the papers have BatchNorm, and a skip around the convolution that an
action enters by. The paper gives the sizes of no head; these are those of AlphaGo Zero's.
"""

# MuZero, appendices E and F: 96x96 RGB, 32 frames with their actions; 6x6x256.
MUZERO_ATARI = dict(
    history_steps=32,
    stages=((128, 3, 2, 2), (256, 3, 2, 3), ("pool", 3, 2, 3), ("pool", 3, 2, 0)),
    channels=None,
    representation_blocks=16,
    dynamics_blocks=16,
    prediction_blocks=0,
    head_planes=2,
    head_width=256,
    action_planes=True,
)

# MuZero, appendices E and F, Go: the planes of the environment, H x W x 256.
MUZERO_BOARD = dict(
    history_steps=1,
    stages=(),
    channels=256,
    representation_blocks=16,
    dynamics_blocks=16,
    prediction_blocks=0,
    head_planes=2,
    head_width=256,
    action_planes=False,
    action_encoding="spatial",
)

# Ye et al. 2021 (appendix A), without the recurrent reward head: 96x96 RGB, 4 frames; 6x6x64.
ATARI_100K = dict(
    history_steps=4,
    stages=((32, 3, 2, 1), ("residual", 64, 2, 1), ("pool", 3, 2, 1), ("pool", 3, 2, 0)),
    channels=None,
    representation_blocks=1,
    dynamics_blocks=1,
    prediction_blocks=1,
    head_planes=16,
    head_width=32,
    action_planes=False,
)
