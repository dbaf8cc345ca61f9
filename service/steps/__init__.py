"""What forks of workers run for a recalibration; may import what fits and trains.

No module outside imports these: steps are named by dotted name, and RQ imports them in the fork. A worker of
simulations loads `batch`, which is light, by its name before it forks (`service.worker.process`).
"""
