from prometheus_client.parser import text_string_to_metric_families

from service.peers import merged

ONE = """# HELP x_total Things.
# TYPE x_total counter
x_total{code="a"} 1.0
# HELP loadmaster_gpus_needed GPUs to ask for.
# TYPE loadmaster_gpus_needed gauge
loadmaster_gpus_needed{base_model="m",gpu_type="g"} 3.0
# HELP t_seconds Time.
# TYPE t_seconds histogram
t_seconds_bucket{le="1.0"} 2.0
t_seconds_bucket{le="+Inf"} 3.0
t_seconds_count 3.0
t_seconds_sum 4.0
"""
TWO = ONE.replace('x_total{code="a"} 1.0', 'x_total{code="a"} 5.0') + "# TYPE y gauge\ny 7.0\n"


def samples(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_each_process_keeps_its_own_numbers_and_what_all_know_is_told_once():
    text = merged({"api-0": ONE, "api-1": TWO}).decode()
    found = samples(text)
    assert found["x_total", ("code", "a"), ("process", "api-0")] == 1
    assert found["x_total", ("code", "a"), ("process", "api-1")] == 5
    assert found["t_seconds_bucket", ("le", "1.0"), ("process", "api-1")] == 2
    assert found["y", ("process", "api-1")] == 7
    gpus = {key: value for key, value in found.items() if key[0] == "loadmaster_gpus_needed"}
    assert gpus == {("loadmaster_gpus_needed", ("base_model", "m"), ("gpu_type", "g")): 3}


def test_a_family_is_described_once():
    text = merged({"api-0": ONE, "api-1": TWO}).decode()
    assert text.count("# TYPE x_total counter") == text.count("# HELP t_seconds Time.") == 1
