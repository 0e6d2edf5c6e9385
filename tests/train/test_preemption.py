"""SIGTERM in one process; with several see tests/multihost."""

import os
import signal
import time

import pytest

from jaxgen.train.preemption import Preempted, Preemption, stoppable


def test_where_nothing_is_trained_it_ends_the_launch():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match="launch again"), stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_it_is_told_once_and_also_after_the_last_step():
    with stoppable(), Preemption() as p:
        assert not p.reached()
        os.kill(os.getpid(), signal.SIGTERM)
        assert p.reached()
        assert p.finish()
    with Preemption() as p:
        assert not p.reached()
        assert not p.finish()
        os.kill(os.getpid(), signal.SIGTERM)
        assert p.finish()
    with Preemption() as p:
        assert not p.finish()


def test_no_reader_takes_the_signal_for_a_damaged_file():
    def read():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except Exception:
            return "damaged"

    with pytest.raises(Preempted), stoppable():
        read()


def test_a_signal_that_python_drops_stops_the_next_training():
    """As within jax's callback of the garbage collector, whose exceptions are ignored."""
    with stoppable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except BaseException:
            pass
        with Preemption() as preemption:
            assert preemption.reached()
            assert preemption.finish()
            assert not preemption.reached()
