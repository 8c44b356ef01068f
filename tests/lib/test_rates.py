"""Token buckets."""

from skep.lib.rates import SECOND, TokenBuckets


def test_a_burst_passes_and_then_the_steady_rate() -> None:
    buckets = TokenBuckets(per_second=2, burst=3)
    assert [buckets.take("a", 0) for _ in range(4)] == [True, True, True, False]
    assert not buckets.take("a", SECOND // 4)
    assert buckets.take("a", SECOND // 2)
    assert not buckets.take("a", SECOND // 2)


def test_keys_do_not_share() -> None:
    buckets = TokenBuckets(per_second=1, burst=1)
    assert buckets.take("a", 0)
    assert buckets.take("b", 0)
    assert not buckets.take("a", 0)


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    buckets = TokenBuckets(per_second=1, burst=2)
    assert buckets.take("a", 0)
    assert [buckets.take("a", 3600 * SECOND) for _ in range(3)] == [True, True, False]


def test_memory_is_bounded_and_recent_keys_are_kept() -> None:
    buckets = TokenBuckets(per_second=1, burst=1, max_keys=2)
    for key in ("a", "b", "c"):
        assert buckets.take(key, 0)
    assert set(buckets.levels) == {"b", "c"}
    assert not buckets.take("c", 0)
