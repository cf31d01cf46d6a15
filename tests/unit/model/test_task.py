"""Tasks as records: their lives, the meaning of their paths, the age of files, and the rows of their reports."""

from __future__ import annotations

import csv
import io
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s3lustrefs.model import task as tasks
from s3lustrefs.model import task_report
from s3lustrefs.model.association import Association
from s3lustrefs.model.ids import AssocId
from s3lustrefs.model.task import Lifecycle, TaskFailure, TaskRecord, TaskReport
from s3lustrefs.model.task_paths import absolute, outermost, reached, readings, spans, split_urls

DAY_NS = 86400 * 10**9
ONE = Association("/one", "bucket", "one/", assoc_id=AssocId(1), association_id="dra-1")
TWO = Association("/two/deep", "bucket", "two/", assoc_id=AssocId(2), association_id="dra-2")
OTHER = Association("/other", "other", "", assoc_id=AssocId(3), association_id="dra-3")
ALL = [ONE, TWO, OTHER]


# --- life ----------------------------------------------------------------------------------------------------------------------


def test_steps_that_no_task_takes_are_refused() -> None:
    allowed = {
        ("PENDING", "EXECUTING"), ("PENDING", "CANCELING"), ("PENDING", "FAILED"), ("EXECUTING", "SUCCEEDED"),
        ("EXECUTING", "FAILED"), ("EXECUTING", "CANCELING"), ("CANCELING", "CANCELED"),
    }  # fmt: skip
    for before in get_args(Lifecycle):
        for after in get_args(Lifecycle):
            record = TaskRecord("task-1", tasks.IMPORT, 1, lifecycle=before)
            if (before, after) in allowed:
                assert record.step(after, 2).lifecycle == after
            else:
                with pytest.raises(ValueError, match=f"is {before}, which {after} does not follow"):
                    record.step(after, 2)


def test_times_are_those_of_the_steps() -> None:
    record = TaskRecord("task-1", tasks.EXPORT, 1)
    executing = record.step("EXECUTING", 5)
    ended = executing.step("FAILED", 9, failure="x" * 300)
    assert (record.started_ns, executing.started_ns, executing.ended_ns, ended.started_ns, ended.ended_ns) == (0, 5, 0, 5, 9)
    assert len(ended.failure) == 256 and ended.is_ended and not executing.is_ended
    assert record.step("CANCELING", 3).step("CANCELED", 4).started_ns == 0


@pytest.mark.parametrize(
    ("mine", "theirs", "same"),
    [((), ("/",), True), (("a", "b"), ("/b/", "a"), True), (("a",), ("a", "b"), False), (("a",), ("A",), False)],
)
def test_two_tasks_do_the_same(mine: tuple[str, ...], theirs: tuple[str, ...], same: bool) -> None:
    first, second = TaskRecord("task-1", tasks.EXPORT, 1, mine), TaskRecord("task-2", tasks.EXPORT, 2, theirs)
    assert first.does_the_same(second) is same
    assert not first.does_the_same(TaskRecord("task-3", tasks.RELEASE, 2, mine))


# --- age -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("newest", range(3))
def test_file_counts_as_unused_strictly_after_the_duration(newest: int) -> None:
    created_ns = 1000 * DAY_NS
    times = [created_ns - 100 * DAY_NS] * 3
    times[newest] = created_ns - 9 * DAY_NS
    assert not tasks.was_unused(times, created_ns, 9 * tasks.DAY_SECONDS)
    times[newest] -= 1
    assert tasks.was_unused(times, created_ns, 9 * tasks.DAY_SECONDS)


def test_no_duration_asks_for_no_age() -> None:
    assert tasks.was_unused([2 * DAY_NS] * 3, DAY_NS, 0)
    assert not tasks.was_unused([2 * DAY_NS] * 3, DAY_NS, 1)


# --- paths ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_path", "ways"),
    [
        ("path1", [["/path1"]]),
        ("/", [["/"]]),
        ("", [["/"]]),
        ("/path1/", [["/path1"]]),
        ("path1,path2/file1", [["/path1,path2/file1"], ["/path1", "/path2/file1"]]),
        ("a,,b,", [["/a,,b,"], ["/a", "/b"]]),
        (",", [["/,"]]),
    ],
)
def test_path_is_read_as_it_stands_then_as_several(given_path: str, ways: list[list[str]]) -> None:
    assert readings(given_path) == ways


@given(st.lists(st.text("ab/", max_size=6)))
@example(["/a", "/a/b", "/ab"])
@example(["/a/b", "/", "/a"])
@example(["/a", "/a-b", "/a/b"])  # in the order of their bytes, something else comes between a directory and what is below it
def test_outermost_paths_cover_all_and_none_twice(given_paths: list[str]) -> None:
    paths = [absolute(path) for path in given_paths]
    found = outermost(paths)
    below = [(a, b) for a in found for b in found if a != b and a.startswith(b.rstrip("/") + "/")]
    assert not below and len(set(found)) == len(found)
    assert all(any(path == each or path.startswith(each.rstrip("/") + "/") for each in found) for path in paths)


def test_associations_are_reached_from_inside_and_from_above() -> None:
    assert reached(ALL, []) == ALL
    assert reached(ALL, ["one/x"]) == [ONE]
    assert reached(ALL, ["/two"]) == [TWO]
    assert reached(ALL, ["one/x,two/deep/y"]) == [ONE, TWO]
    assert reached(ALL, ["elsewhere"]) == []


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("/", [("dra-1", ""), ("dra-2", ""), ("dra-3", "")]),
        ("s3://bucket", [("dra-1", ""), ("dra-2", "")]),
        ("s3://bucket/one/", [("dra-1", "")]),
        ("s3://bucket/one", [("dra-1", "")]),
        ("s3://bucket/one/a/b/", [("dra-1", "a/b")]),
        ("s3://bucket/one/a/b.txt", [("dra-1", "a/b.txt")]),
        ("s3://bucket/on", []),
        ("s3://other/x", [("dra-3", "x")]),
        ("s3://third/", []),
        ("one/x", []),
    ],
)
def test_url_is_a_part_of_associations(url: str, meant: list[tuple[str, str]]) -> None:
    assert [(span.association.association_id, span.relative) for span in spans(ALL, url)] == meant


def test_urls_joined_by_commas_are_several() -> None:
    assert split_urls("s3://a/x,s3://b/y,z") == ["s3://a/x", "s3://b/y,z"]
    assert split_urls("s3://a/x") == ["s3://a/x"]


# --- reports -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/dir/file", "dir/file"),
        ("/@filename.txt", '"""@filename.txt"""'),
        ("/=1+1", '"""=1+1"""'),
        ("/-x", '"""-x"""'),
        ("/+x", '"""+x"""'),
        ('/say "hi"', '"say ""hi"""'),
        ("/a,b", '"a,b"'),
        ("/dir/@x", "dir/@x"),
    ],
)
def test_row_is_quoted_as_in_the_guide(path: str, shown: str) -> None:
    assert task_report.row(TaskFailure(1, path, "S3Error")) == f"{shown},failed,S3Error\r\n"


@given(st.lists(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1), min_size=1))
@example(["\r\n", '"', ",", "@", "=\n"])
def test_any_csv_reader_gets_the_paths_back_and_no_formula(paths: list[str]) -> None:
    text = "".join(task_report.row(TaskFailure(at, "/" + path, "S3Error")) for at, path in enumerate(paths))
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert [row[1:] for row in rows] == [["failed", "S3Error"]] * len(paths)
    for row, path in zip(rows, paths, strict=True):
        assert not row[0].startswith(("@", "+", "-", "="))
        assert row[0] == (f'"{path}"' if path.startswith(("@", "+", "-", "=")) else path)


def test_report_lies_in_an_association_or_nowhere() -> None:
    def place(path: str, kind: tasks.TaskType = tasks.EXPORT) -> object:
        return task_report.place(TaskRecord("task-1", kind, 1, report=TaskReport(path)), ALL)

    assert place("s3://bucket/one") == (ONE, b"one/task-1/failures.csv")
    assert place("s3://bucket/one/my reports/", tasks.RELEASE) == (ONE, b"one/my reports/task-1/failures.csv")
    assert place("s3://other", tasks.IMPORT) == (OTHER, b"task-1/report.csv")
    for path in ("", "s3://bucket", "s3://bucket/oneself", "s3://third/one", "bucket/one", "s3://bucket/one/" + "x" * 1010):
        assert isinstance(place(path), str), path
