"""The progress bar."""

from dynamics.experiments.progress import progress


def test_work_is_counted_and_nothing_is_written_off_a_terminal(capsys):
    with progress(3, "scan") as bar:
        bar.part(1, "bert")(0.5)
        assert bar.done == 1.5
        bar.advance(text="gpt2")
        assert bar.done == 2.5
        bar.show(3)
    assert capsys.readouterr() == ("", "")
