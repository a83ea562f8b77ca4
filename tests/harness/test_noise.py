"""Counter-based noise: words against NumPy's and published ones, numbers against SciPy's, the same on any device."""

import hashlib

import numpy as np
import pytest
import torch
from assay.harness import noise, seeds
from assay.harness.seeds import SampleRng
from numpy.random import Generator, Philox
from pretend_device import ELSEWHERE, PretendDevice
from scipy import special, stats

CPU = torch.device("cpu")
KEYS = [(1, 2), (2**64 - 1, 2**63), (0, 0), (2**63 - 1, 2**32)]
PI = (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89)

PUBLISHED = [  # counter, key, words: `philox4x64 10` of Random123's tests/kat_vectors
    ([0] * 4, (0, 0), (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)),
    (
        [2**64 - 1] * 4,
        (2**64 - 1, 2**64 - 1),
        (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
    ),
    (
        PI,
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
    ),
]


def _block(counter: list[int], key: tuple[int, int]) -> tuple[int, ...]:
    """Salmon et al. 2011, section 3.3, in Python's whole numbers."""
    for number in range(10):
        first, second = (each * factor for each, factor in zip(counter[::2], noise.MULTIPLIERS.tolist(), strict=True))
        left, right = ((each + number * weyl) % 2**64 for each, weyl in zip(key, noise.WEYL.tolist(), strict=True))
        upper = (second >> 64) ^ counter[1] ^ left, (first >> 64) ^ counter[3] ^ right
        counter = [upper[0], second % 2**64, upper[1], first % 2**64]
    return tuple(counter)


def _drawn(count: int) -> torch.Tensor:
    return noise.words([(7, 0)], 0, count, CPU)[0]


@pytest.mark.parametrize(("counter", "key", "published"), PUBLISHED, ids=["zeros", "ones", "pi"])
def test_the_definition_gives_the_published_words(
    counter: list[int], key: tuple[int, int], published: tuple[int, ...]
) -> None:
    assert _block(list(counter), key) == published


@pytest.mark.parametrize("first", [0, 7, 2**32 - 3, 2**45])
def test_torchs_integers_are_the_definition_and_numpys(first: int) -> None:
    """All bits, for keys that use the sign, and counters of more than 32 bits."""
    there = noise.words_there(KEYS, first, 5, CPU)
    assert torch.equal(there, noise.words_here(KEYS, first, 5))
    defined = [[_block([first + 1 + n, 0, 0, 0], key) for n in range(5)] for key in KEYS]
    assert np.array_equal(there.numpy().view(np.uint64), np.array(defined, np.uint64).reshape(len(KEYS), -1))


def test_many_words_of_both_ways() -> None:
    """Carries that are one in millions: 2^21 words."""
    assert torch.equal(noise.words_there(KEYS, 5, 2**16, CPU), noise.words_here(KEYS, 5, 2**16))


@pytest.mark.parametrize(("start", "count"), [(0, 8), (3, 2), (5, 30), (8, 1), (15, 17), (4, 0)])
def test_words_are_told_by_their_place(start: int, count: int) -> None:
    whole = noise.words(KEYS, 0, 64, CPU)
    assert torch.equal(noise.words(KEYS, start, count, CPU), whole[:, start : start + count])


def test_uniform_numbers_are_those_of_numpys_generator() -> None:
    theirs = Generator(Philox(key=np.array([7, 0], np.uint64))).random(1000, dtype=np.float32)
    assert np.array_equal(noise.uniform(_drawn(1000)).numpy(), theirs)
    extremes = torch.tensor([0, 255, 256, -1, 2**31 - 1, -(2**31)], dtype=torch.int32)
    assert (noise.uniform(extremes) * 2**24).tolist() == [0, 0, 1, 2**24 - 1, 2**23 - 1, 2**23]


def _quantiles(drawn: np.ndarray) -> np.ndarray:
    """What normal numbers of words are to be, in float64."""
    whole = drawn.astype(np.int64)
    return -special.ndtri((np.where(whole < 0, ~whole, whole) + 0.5) / 2**32) * np.where(whole < 0, -1, 1)


def test_normal_numbers_are_quantiles() -> None:
    """Against SciPy's ndtri at a million random words, and all of the last ten octaves of both tails: within 6e-7
    (float32's own numbers are 4.8e-7 apart at the tail's 6.3).

    Exactly: a word and its complement are opposite.
    """
    tail = torch.arange(-(2**10), 2**10, dtype=torch.int32)
    borders = torch.tensor([2**n + d for n in range(1, 31) for d in (-1, 0, 1)] + [2**31 - 1], dtype=torch.int32)
    drawn = torch.cat([_drawn(2**20), tail, borders, ~borders])
    made, expected = noise.normal(drawn).numpy(), _quantiles(drawn.numpy())
    off = np.abs(made - expected)
    assert off.max() < 6e-7
    assert np.array_equal(noise.normal(~drawn).numpy(), -made)
    assert made.min() == -made.max() == pytest.approx(special.ndtri(2.0**-33), abs=6e-7)


def test_normal_numbers_are_normal() -> None:
    """Four million: Kolmogorov-Smirnov, moments within 4 standard errors, and as many beyond 1 to 5 deviations."""
    made = noise.normal(_drawn(n := 2**22)).numpy().astype(np.float64)
    assert stats.kstest(made, "norm").pvalue > 0.01
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((made**power).mean() - mean) < 4 * (variance / n) ** 0.5
    for beyond in range(1, 6):
        expected = 2 * n * stats.norm.sf(beyond)
        assert abs((np.abs(made) > beyond).sum() - expected) < 4 * expected**0.5
    assert abs(np.corrcoef(made[:-1], made[1:])[0, 1]) < 4 / n**0.5


def test_the_table_is_this_one() -> None:
    """Its bits, on every machine and version: with others, stored results could not be compared."""
    made = noise.quantiles()
    assert made.shape == (3, 32 * 2**noise.BITS + 1)
    assert hashlib.sha256(made.numpy().tobytes()).hexdigest()[:16] == "334945afb87e4a8e"


def test_another_device_draws_the_same_bits() -> None:
    """With no wait but for the one look at the device, and nothing of the numbers' size made on the CPU."""
    noise.draws_alike.cache_clear()
    rngs = [SampleRng(0, "method", ["a", "b", "c"], ["a#1"]) for _ in range(2)]
    here = rngs[0].noise((3, 5, 7), CPU)
    with PretendDevice() as mode:
        there = rngs[1].noise((3, 5, 7), ELSEWHERE)
        for draw in ("normal", "uniform"):
            drawn = getattr(there, draw)(2, 6)
            assert drawn.device == ELSEWHERE
            assert torch.equal(drawn.cpu(), getattr(here, draw)(2, 6))
    assert noise.draws_alike(ELSEWHERE)
    waits = {place.partition(":")[0]: times for place, times in mode.waits.items()}
    assert waits == {"harness/noise.py": 2, "torch _to_copy": 2}  # a look at each form; the latter are this test's own


def test_a_device_of_other_bits_is_given_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were shifts logical there, say: it is said once, and the numbers are the CPU's all the same."""
    here = SampleRng(0, "method", ["a"], []).noise((9,), CPU).normal(1, 4)
    noise.draws_alike.cache_clear()
    monkeypatch.setattr(noise, "words_there", lambda *given: noise.words_here(*given[:3]).to(given[3]) + 1)
    with PretendDevice(), pytest.warns(UserWarning, match="lazy computes other bits than the CPU"):
        there = SampleRng(0, "method", ["a"], []).noise((9,), ELSEWHERE).normal(1, 4)
        assert there.device == ELSEWHERE and torch.equal(there.cpu(), here)
    noise.draws_alike.cache_clear()


def test_rows_made_in_parts_change_no_bit() -> None:
    """Longer than what is made at once, from the middle of a block."""
    series = SampleRng(0, "method", ["a", "b", "c"], []).noise((2 * seeds.PART + 11,), CPU)
    words = noise.words(series.keys, 2 * seeds.PART + 11, 2 * seeds.PART + 11, CPU)
    assert torch.equal(series.normal(1, 2)[:, 0], noise.normal(words))
