import gc

import pytest

from detector.importing import nothing_to_collect


def test_no_collection_in_the_block_and_of_what_it_made():
    before = gc.get_freeze_count()
    with nothing_to_collect():
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)
    gc.unfreeze()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with nothing_to_collect():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_on_again_after_an_error():
    def fail():
        with nothing_to_collect():
            raise ImportError("torch")

    with pytest.raises(ImportError):
        fail()
    assert gc.isenabled()
    gc.unfreeze()
