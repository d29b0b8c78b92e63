"""Steps that take a while, so that a run can be killed in the middle and W&B hears of it before."""

import time

import lightning as L


class Slow(L.Callback):
    def on_train_batch_start(self, *_):
        time.sleep(0.04)
