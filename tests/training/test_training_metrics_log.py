"""The table of a run's course."""

from se_med.training.metrics_log import MetricsLog


def test_rows_gain_columns_and_survive_reading(tmp_path):
    log = MetricsLog(tmp_path / "metrics.csv", last_step=0)
    log.append({"step": 10, "loss": 1.5})
    log.append({"step": 20, "loss": 1.25, "mean_dice": 0.5})
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,mean_dice\n10,1.5,\n20,1.25,0.5\n"


def test_resuming_drops_what_will_be_done_again(tmp_path):
    log = MetricsLog(tmp_path / "metrics.csv", last_step=0)
    for step in (10, 20, 30):
        log.append({"step": step, "loss": 1 / step})
    resumed = MetricsLog(tmp_path / "metrics.csv", last_step=20)
    resumed.append({"step": 30, "loss": 0.5})
    resumed.append({"step": 30, "loss": 0.25})
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,loss", "10,0.1", "20,0.05", "30,0.25"]


def test_new_run_ignores_an_old_table(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss\n10,1\n")
    assert MetricsLog(tmp_path / "metrics.csv", last_step=0).rows == []
