"""The table of faults names each once, and its lists name faults that exist."""

from liveavatar.bench.faults import plan


def test_the_lists_name_faults_of_the_table() -> None:
    faults = list(plan.faults())
    assert len({str(fault) for fault in faults}) == len(faults)
    assert {fault.name for fault in faults} >= plan.HELD_OUT
    assert {(fault.name, fault.strength) for fault in faults if fault.slight} == plan.SLIGHT
    assert {str(fault) for fault in faults} >= plan.QUICK
    assert {fault.name for fault in faults if fault.in_sound} == plan.SOUND.keys()
