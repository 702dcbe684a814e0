"""A cache of features stays within its bytes, drops what was used longest ago, and may be shared by threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from alphabar.conditions import feature_cache
from alphabar.conditions.feature_cache import FeatureCache


def kept(cache: FeatureCache, keys: str) -> str:
    """Which of these keys are kept, found without using them."""
    return "".join(key for key in keys if key in cache._kept)


def test_what_was_used_longest_ago_goes_first():
    cache = FeatureCache(budget=3 * 40)
    for key in "abc":
        cache.keep(key, torch.full((10,), float(ord(key))))
    assert cache.get("a")[0] == ord("a")
    cache.keep("d", torch.zeros(10))
    assert kept(cache, "abcd") == "acd"
    assert cache.get("b") is None
    cache.keep("e", torch.zeros(20))
    assert (kept(cache, "abcde"), cache.size) == ("de", 120)


def test_a_key_that_is_kept_anew_counts_once():
    cache = FeatureCache(budget=100)
    for length in (10, 20, 5):
        cache.keep("a", torch.zeros(length))
        assert (len(cache), cache.size) == (1, 4 * length)


def test_what_exceeds_the_budget_alone_is_not_kept_and_drops_nothing():
    cache = FeatureCache(budget=100)
    cache.keep("a", torch.zeros(10))
    cache.keep("b", torch.zeros(26))
    assert (kept(cache, "ab"), cache.size) == ("a", 40)


@pytest.mark.parametrize(("available", "budget"), [(1e12, 2**30), (4e6, 1e6)])
def test_the_budget_follows_the_memory(monkeypatch, available, budget):
    monkeypatch.setattr(feature_cache, "available_memory", lambda: available)
    assert FeatureCache().budget == budget


def test_threads_leave_the_count_of_bytes_right():
    cache = FeatureCache(budget=40 * 7)

    def use(worker: int) -> None:
        for i in range(2000):
            key = str((worker * 7 + i) % 23)
            if cache.get(key) is None:
                cache.keep(key, torch.zeros(10))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert cache.size == sum(tensor.nbytes for tensor in cache._kept.values()) <= cache.budget
