"""Goal: a time is counted in the one bucket that it belongs to, bounds included, and a report stays as it was."""

from hypothesis import given
from hypothesis import strategies as st

from storage.timing import BOUNDS_S, Timings


@given(st.lists(st.one_of(st.sampled_from(BOUNDS_S), st.floats(0, 100))))
def test_each_time_is_counted_up_to_the_bound_that_holds_it(times: list[float]) -> None:
    timings = Timings()
    for seconds in times:
        timings.took(seconds)
    report = timings.report()
    for upto, bound in enumerate(report.bounds, start=1):
        assert sum(report.counts[:upto]) == sum(1 for seconds in times if seconds <= bound)
    assert sum(report.counts) == len(times)
    assert report.total == sum(times)
    timings.took(1.0)
    assert sum(report.counts) == len(times), "a report does not change"
