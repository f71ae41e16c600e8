"""From an objective to an update, in small steps; leave them at any line and go on by hand.

gradients = updates.gradients(objective)                    # sums
gradients = updates.accumulate(gradients, microbatches=4)   # still sums
gradients = layout.across(gradients)                        # still sums, now over devices
update    = updates.step(gradients, optimizer)              # divide once, apply once
"""

from jaxkit.updates.averaging import EmaState, averaged, ema
from jaxkit.updates.fusing import fuse, indexed, stack
from jaxkit.updates.looping import loop, mentions, slow_in_a_loop
from jaxkit.updates.stepping import guarded_step, init_state, step
from jaxkit.updates.summing import accumulate, gradients

__all__ = [
    "EmaState",
    "accumulate",
    "averaged",
    "ema",
    "fuse",
    "gradients",
    "guarded_step",
    "indexed",
    "init_state",
    "loop",
    "mentions",
    "slow_in_a_loop",
    "stack",
    "step",
]
