"""Compares two runs on the same task: metrics side by side, paired differences, and whether they may be chance.

    python launch/compare.py checkpoints/new checkpoints/old
    python launch/compare.py checkpoints/new checkpoints/old --protocol=playlist --split=val --output=compare.json

Evaluates the best checkpoints of RUN_A and RUN_B, which must have been trained on the same data. Differences are A - B.
Their intervals are 95 % bootstrap intervals over users. Their p-values come from a paired randomization test over users
(two-sided, 10,000 random assignments of signs, not corrected for the number of metrics).
"""

from typing import Any

from absl import flags

from launch import app
from music_map.evaluation.protocols import PROTOCOLS

_PROTOCOL = flags.DEFINE_string(
    "protocol", None, f"One of {', '.join(PROTOCOLS.all())}; by default RUN_A's eval.protocol."
)
_SPLIT = flags.DEFINE_enum("split", "test", ["val", "test"], "Split to evaluate on.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
_SESSIONS = flags.DEFINE_integer("max_sessions", 10_000, "Protocol playlist: sessions drawn of a number of seeds.", 1)


def main(run_a: str, run_b: str) -> int:
    from music_map.run.comparison import compare_runs
    from music_map.run.folder import read_record
    from music_map.storage import write_json

    workdirs = [app.path_of(run_a, "RUN_A"), app.path_of(run_b, "RUN_B")]
    output = None if _OUTPUT.value is None else app.file_to_write(_OUTPUT.value, "output")
    config = read_record(workdirs[0], reporter=app.reporter()).config
    protocol = app.protocol_of(config, _PROTOCOL.value)
    result = compare_runs(
        *workdirs, protocol=protocol, split=_SPLIT.value, max_sessions=_SESSIONS.value, reporter=app.reporter()
    )
    app.say(_table(result))
    if output is not None:
        write_json(output, result)
        app.say(f"all metrics in {output}")
    return 0


def _table(result: dict[str, Any]) -> str:
    """Metrics of both runs, differences, intervals and p-values: a row a metric."""
    from music_map.run.evaluation import columns

    lines = [f"{key.upper()}: {result[key]['workdir']}, checkpoint of step {result[key]['step']}" for key in "ab"]
    seeds = f", {result['num_seeds']} seeds" if "num_seeds" in result else ""
    lines.append(f"protocol {result['protocol']}{seeds}, split {result['split']}, {result['num_users']} users:")
    lines.append(f"{'':<16}{'A':>10}{'B':>10}{'A - B':>10}{'95 % interval':>22}{'p':>10}")
    for key in columns(result["protocol"]):
        values = [result[name]["metrics"].get(key) for name in "ab"]
        if None in values:
            continue
        line = f"{key:<16}{values[0]:>10.4f}{values[1]:>10.4f}{values[0] - values[1]:>+10.4f}"
        if key in result["differences"]:
            each = result["differences"][key]
            line += "[{:+.4f}, {:+.4f}]".format(*each["interval"]).rjust(22) + f"{each['p_value']:>10.4f}"
        lines.append(line)
    lines.append(f"p: {result['test']}")
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main, arguments=("RUN_A", "RUN_B"))
