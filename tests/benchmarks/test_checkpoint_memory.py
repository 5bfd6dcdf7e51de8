import re

from benchmarks import checkpoint_memory


def test_no_more_than_two_checkpoints_are_in_memory(capfd):
    checkpoint_memory.main(["--checkpoints", "3", "--width", "4000"])
    held = re.search(r"3 checkpoints of 64 MB: .* ([\d.]+) checkpoints", capfd.readouterr().out)
    assert float(held[1]) <= 2.5
