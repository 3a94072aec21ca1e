"""Packed results, `results.json.xz`: the same numbers in a small file, and refused where they are damaged."""

import lzma

import pytest
from report_helpers import results

from ad_jax.report import packed, report
from ad_jax.report.report import ReportError


@pytest.fixture
def plain_and_packed(tmp_path):
    report.pool(results(seeds=(0, 1)), tmp_path / "results.json")
    data = report.load([tmp_path / "results.json"])
    report.pool(data, tmp_path / "small" / "results.json.xz")
    return tmp_path / "results.json", tmp_path / "small" / "results.json.xz", data


def test_packed_results_are_the_plain_ones_to_the_byte(plain_and_packed):
    plain, small, data = plain_and_packed
    assert packed.unpack(small) == plain.read_bytes()
    assert report.load([small]) == report.load([small.parent]) == data
    content = small.read_bytes()
    report.pool(data, small)
    assert small.read_bytes() == content


def test_a_run_s_own_results_come_before_packed_ones(plain_and_packed):
    _, small, _ = plain_and_packed
    report.pool(results(seeds=(5,)), small.parent / "results.json")
    assert [run["seed"] for run in report.load([small.parent])["runs"]] == [5]


def test_no_flipped_bit_and_no_cut_goes_unseen(plain_and_packed):
    _, small, _ = plain_and_packed
    content = small.read_bytes()
    bad = [content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :] for place in range(0, len(content), 9)]
    for damaged in (*bad, content + b"more", content + content):
        small.write_bytes(damaged)
        with pytest.raises(ReportError, match=r"results\.json\.xz: expected a readable"):
            report.load([small])
    for cut in (content[:-1], content[: len(content) // 2], b""):
        small.write_bytes(cut)
        with pytest.raises(ReportError, match="packed data is cut"):
            report.load([small])


def test_packed_data_under_a_plain_name_is_told_in_one_line(plain_and_packed):
    plain, small, _ = plain_and_packed
    plain.write_bytes(small.read_bytes())
    with pytest.raises(ReportError, match=r"results\.json: expected a readable results\.json") as told:
        report.load([plain])
    assert len(str(told.value)) < 400


def test_a_small_file_that_holds_a_very_long_one_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "LARGEST", 1 << 20)
    file = tmp_path / "results.json.xz"
    file.write_bytes(lzma.compress(b" " * (1 << 22)))
    with pytest.raises(ReportError, match="at most 1,048,576 bytes"):
        report.load([file])
