"""The suite's report: what is compared with what."""

from bench.suite.__main__ import rows_of


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    report = {
        "benchmarks": [
            {
                # The second half of the rounds met a machine half as fast: neither median tells the ratio, 3.
                "stats": {"data": [1.0, 1.1, 2.0, 2.2, 2.1]},
                "extra_info": {"title": "ours", "each": 1, "rival": "theirs", "beside": [3.0, 3.3, 6.0, 6.6, 1.0]},
            },
            {
                "stats": {"data": [8.0, 8.0]},
                "extra_info": {"title": "eight", "each": 8, "rival": "one", "beside": [2.0, 2.0]},
            },
            {"stats": {"data": [4.0]}, "extra_info": {"title": "alone", "each": 2, "rival": None, "beside": []}},
        ]
    }
    ours, eight, alone = rows_of(report)
    assert (ours["name"], ours["p50"], ours["against"]) == ("ours", 2.0, "3.00x theirs")
    assert (eight["p50"], eight["against"]) == (1.0, "2.00x one")
    assert (alone["p20"], alone["p80"], alone["against"]) == (2.0, 2.0, "")
