"""Draws the Atari curves of benchmarks/results/: python benchmarks/plot.py"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    paths = sorted(RESULTS.glob("atari_*.json"))
    figure, axes = plt.subplots(1, len(paths), figsize=(4.2 * len(paths), 3.2), squeeze=False)
    for axis, path in zip(axes[0], paths, strict=True):
        result = json.loads(path.read_text())
        minutes = [point["wall_s"] / 60 for point in result["curve"]]
        for games, minute in zip(result["curve"], minutes, strict=True):
            returns = games["eval/returns"]
            axis.plot([minute] * len(returns), returns, ".", color="0.75", markersize=3, zorder=1)
        axis.plot(minutes, [p["eval/return_mean"] for p in result["curve"]], "-o", markersize=3)
        mean, (low, high) = result["score"]["mean"], result["score"]["interval_95"]
        axis.errorbar(
            [result["train_seconds_from_process_start"] / 60],
            [mean],
            [[mean - low], [high - mean]],
            fmt="s",
            color="C3",
            capsize=3,
            label="last checkpoint, 95 %",
        )
        axis.axhline(result["random"]["mean"], color="0.4", linestyle=":", label="random play")
        axis.set_title(result["config"]["env"]["game"])
        axis.set_xlabel("minutes on 2 CPU cores")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("raw score of whole games")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(RESULTS / "atari_curves.png", dpi=150)


if __name__ == "__main__":
    main()
