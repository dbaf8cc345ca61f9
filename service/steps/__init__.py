"""What forks of workers run for a recalibration; may import what fits and trains.

Nothing else imports these modules: steps are named by dotted name, and RQ imports them in the fork.
"""
