"""An image is given up after several workers that measured it were lost."""

from dkic.rate_control.attempts import Attempts


def test_an_image_is_given_up_after_three_lost_workers():
    attempts = Attempts(3)
    assert [attempts.begin("a.png", worker) for worker in ("1", "2", "3")] == [""] * 3
    for worker in ("4", "5"):  # to whoever asks from then on
        assert attempts.begin("a.png", worker).startswith("a.png: 3 workers in a row died while measuring it, ")
    assert attempts.begin("b.png", "4") == ""


def test_other_failures_are_not_counted():
    attempts = Attempts(3)
    for worker in "123456":
        assert attempts.begin("a.png", worker) == attempts.begin("a.png", worker) == ""  # told twice
        attempts.end("a.png")  # and then measured again, as the result was lost with a machine
    for worker in ("7", "8", "9", "9"):
        assert attempts.begin("a.png", worker) == ""


def test_attempts_are_counted_per_image():
    attempts = Attempts(3)
    for source in ("a.png", "b.png", "c.png", "d.png"):  # a worker for each, all lost with their machine
        assert [attempts.begin(source, worker + source) for worker in "12"] == ["", ""]
