"""Turns at what may be done by many and what must be done alone, and requests of OpenVINO, which are made alone."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np

from aurevoir.engine.runtimes.on_openvino import _runner
from aurevoir.engine.runtimes.turns import Turns


def test_many_are_inside_at_once_and_one_alone():
    turns, inside, most, alone = Turns(), [], [], []

    def enter(index):
        with turns.together():
            inside.append(index)
            time.sleep(0.02)
            most.append(len(inside))
            inside.remove(index)

    def enter_alone(index):
        with turns.alone():
            alone.append(len(inside))
            time.sleep(0.02)
            alone.append(len(inside))

    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(enter_alone if index % 4 == 3 else enter, index) for index in range(24)]
    for each in done:
        each.result()
    assert max(most) > 1
    assert alone == [0] * 12


def test_who_waits_to_be_alone_goes_before_those_that_come_later():
    turns, order, inside = Turns(), [], threading.Event()

    def first():
        with turns.together():
            inside.set()
            time.sleep(0.1)
            order.append("first")

    def alone():
        with turns.alone():
            order.append("alone")

    def later():
        with turns.together():
            order.append("later")

    with ThreadPoolExecutor(3) as pool:
        pool.submit(first)
        inside.wait()
        waiting = pool.submit(alone)
        while not turns._waiting:
            time.sleep(0.001)
        pool.submit(later).result()
        waiting.result()
    assert order == ["first", "alone", "later"]


def test_an_error_leaves_the_turns_to_others():
    turns = Turns()
    for way in (turns.together, turns.alone):
        try:
            with way():
                raise ValueError
        except ValueError:
            pass
    with ThreadPoolExecutor(1) as pool:

        def both():
            with turns.alone():
                pass
            with turns.together():
                return True

        assert pool.submit(both).result(timeout=5)


class Model:
    """A compiled model that notes whether a request was made while another computed."""

    def __init__(self):
        self.computing, self.broken, self.made = 0, False, 0

    def get_property(self, name):
        return 2

    def create_infer_request(self):
        self.broken |= self.computing > 0
        time.sleep(0.005)
        self.broken |= self.computing > 0
        self.made += 1
        return SimpleNamespace(start_async=self.start, wait=lambda: None, infer=self.infer, output_tensors=[self])

    data = np.zeros((1, 3), "float32")

    def start(self, inputs, share_inputs):
        self.infer(inputs, share_inputs, True)

    def infer(self, inputs, share_inputs, share_outputs):
        self.computing += 1
        time.sleep(0.005)
        self.computing -= 1
        return {0: self.data}


def test_no_request_is_made_while_another_thread_computes():
    models = {"LATENCY": Model(), "THROUGHPUT": Model()}
    run = _runner(models.__getitem__, 1)
    images = [np.zeros((count, 2, 2, 3), "uint8") for count in (1, 2)]

    def several(index):
        for turn in range(3):
            run(images[(index + turn) % 2])

    # Each thread has requests of its own.
    threads = [threading.Thread(target=several, args=(index,)) for index in range(8)]
    for index, thread in enumerate(threads):
        thread.start()
        time.sleep(0.003 * (index % 3))
    for thread in threads:
        thread.join()
    assert [model.made for model in models.values()] == [16, 16]
    assert not any(model.broken for model in models.values())
