"""One thread: the models are tiny, and threads would wait for each other and for the other worker's."""

import torch

torch.set_num_threads(1)
