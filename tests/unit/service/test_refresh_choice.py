"""Which live servers stand for all of a plan."""

import numpy as np

from models.features import FEATURE_NAMES, NUM_FEATURES
from models.live import AdapterClass, LiveServer
from service.services.refresh import Seen, chosen

LIMIT = 8


def seen(rate_rps, **features):
    row = np.ones(NUM_FEATURES, dtype=np.float32)
    for name, value in features.items():
        row[FEATURE_NAMES.index(name)] = value
    server = LiveServer(
        max_loras=4,
        max_lora_rank=8,
        max_model_len=None,
        classes=(AdapterClass(1, 8, rate_rps, 10.0, 10.0, None, None, 1.0),),
    )
    outside = ("rho",) if features["rho"] > 3.0 else ()
    return Seen(server=server, row=row, out_of_range=outside, is_thin=False)


def test_gpus_that_are_alike_are_one_server():
    assert len(chosen([seen(0.1, rho=1.0), seen(0.1, rho=1.0), seen(0.2, rho=2.0)], LIMIT)) == 2


def test_of_many_those_that_go_farthest_out_are_taken_and_the_others_lie_apart():
    many = [seen(0.1 + number, rho=0.01 * number) for number in range(400)]
    taken = chosen(many, LIMIT)
    assert len({one.server for one in taken}) == LIMIT
    rho = sorted(float(one.row[FEATURE_NAMES.index("rho")]) for one in taken)
    assert (rho[0], rho[-1]) == (0.0, np.float32(3.99))
    assert np.diff(np.log1p(rho)).max() < 0.6
    assert [one.server for one in chosen(many, LIMIT)] == [one.server for one in taken]


def test_of_many_that_leave_no_range_as_many_are_taken():
    assert len(chosen([seen(0.1 + number, rho=0.001 * number) for number in range(50)], LIMIT)) == LIMIT
