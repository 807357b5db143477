"""A trial of each area of the fault campaign; `make faults` runs the whole of it."""

from campaign import campaign
from harness import Counts, Done, Scene, judge

JOBS = ("preprocess", "train", "convert")
AREAS = ("kills", "full disks", "flips", "edits", "full output", "tables")


def test_faults_end_as_the_same_result_or_as_one_line(tmp_path):
    scene = Scene(tmp_path)
    scene.jobs = {name: scene.jobs[name] for name in JOBS}
    try:
        counts = campaign(scene, seconds=300, areas=AREAS, most=1)
    finally:
        scene.close()
    assert not counts.wrong, "\n".join(counts.wrong)
    assert {area: sum(found.values()) for area, found in counts.areas.items()} == dict.fromkeys(AREAS, 1)
    assert counts.areas["kills"]["same"] == 1


def test_what_counts_as_wrong():
    """The judge can fail: another result in silence, a traceback, another status, two error lines."""
    assert judge(Done(0, "", ""), True) == "same"
    assert judge(Done(0, "", "warning: a is damaged\n"), False) == "refused"
    assert judge(Done(2, "", "error: a: damaged\n"), False) == "refused"
    counts = Counts(say=lambda text: None)
    wrong = (
        Done(0, "", ""),
        Done(1, "", "Traceback (most recent call last):\nKeyError: 'a'\n"),
        Done(2, "", "Traceback (most recent call last):\nerror: a\n"),
        Done(2, "", "error: a\nerror: b\n"),
        Done(2, "", ""),
        Done(-11, "", ""),
    )
    for done in wrong:
        counts.add("area", "trial", judge(done, False))
    assert len(counts.wrong) == len(wrong) and counts.areas["area"]["wrong"] == len(wrong)
