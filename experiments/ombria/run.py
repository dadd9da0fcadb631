"""Run the whole Ombria study through the command line: train, adapt, sweep, and put all methods into one table.

    LIGHTNING_MM_DATA=/path/to/data python experiments/ombria/run.py

Finished steps are not run again (each leaves a file `done`, with a hash of its settings, in its folder), so a stopped
study goes on where it was.
The learning rate of the adapter is chosen by the mean over incomplete combinations on validation tiles; test tiles are
swept once, at the end. Results go to experiments/results/ombria.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import yaml

from lightning_mm.sweep import SweepResult

HERE = Path(__file__).resolve().parent
CHANNELS = {"s1_before": 1, "s1_after": 1, "s2_before": 3, "s2_after": 3}
DEDICATED = [[name] for name in CHANNELS] + [["s1_before", "s1_after"], ["s2_before", "s2_after"]]
LEARNING_RATES = ["0.001", "0.003", "0.01"]


class Study:
    """The steps of the study; each is a command of the real command line in a process of its own."""

    def __init__(self, out: Path, extra: list[str], results: Path) -> None:
        self.out, self.extra, self.results = out, extra, results

    def configs(self, *names: str) -> list[str]:
        return [part for name in ("base", *names) for part in ("-c", str(HERE / f"{name}.yaml"))]

    def step(self, folder: Path, command: list[str]) -> None:
        """Run a command unless its folder says that it is done with these settings; its wall time is kept there."""
        done = folder / f"{command[0]}.{'val.' if 'val' in command else ''}done"
        key = fingerprint(command)
        if done.is_file() and json.loads(done.read_text(encoding="utf-8")).get("key") == key:
            return
        print(f"$ {shlex.join(['lightning-mm', *command])}", flush=True)
        start = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "lightning_mm", *command]).returncode
        if code:
            raise SystemExit(code)
        facts = {"seconds": round(time.monotonic() - start, 1), "key": key}
        done.write_text(json.dumps(facts) + "\n", encoding="utf-8")

    def fit(self, folder: Path, *settings: str) -> None:
        self.step(folder, ["fit", *settings, "--trainer.default_root_dir", str(folder), *self.extra])

    def sweep(self, folder: Path, *settings: str, split: str = "test", out: str = "sweep") -> None:
        command = [
            "sweep",
            *settings,
            "--trainer.default_root_dir",
            str(folder),
            "--ckpt_path",
            str(folder / "best.ckpt"),
        ]
        self.step(folder, [*command, "--split", split, "--out", str(folder / out), *self.extra])

    def train_base(self) -> None:
        self.fit(self.out / "base", *self.configs())

    def train_modality_dropout(self) -> None:
        folder, settings = self.out / "modality_dropout", self.configs("modality_dropout")
        self.fit(folder, *settings)
        self.sweep(folder, *settings, "--method", "modality_dropout")

    def train_dedicated(self) -> None:
        for names in DEDICATED:
            folder = self.out / "dedicated" / "+".join(names)
            channels = ", ".join(f"{name}: {CHANNELS[name]}" for name in names)
            settings = [*self.configs("dedicated"), "--data.modalities", f"[{', '.join(names)}]"]
            settings += ["--model.init_args.model.init_args.channels", f"{{{channels}}}"]
            self.fit(folder, *settings)
            self.sweep(folder, *settings, "--method", "dedicated")

    def adapter_settings(self, rate: str, *overlays: str) -> list[str]:
        base = ["--model.init_args.base_ckpt", str(self.out / "base" / "best.ckpt")]
        return [*self.configs("ssf", *overlays), *base, "--model.init_args.optimizer.init_args.lr", rate]

    def train_adapters(self) -> None:
        for rate in LEARNING_RATES:
            folder, settings = self.out / "ssf" / rate, self.adapter_settings(rate)
            self.fit(folder, *settings)
            self.sweep(folder, *settings, "--bootstrap", "0", split="val", out="sweep_val")
        rate = self.best_rate()
        folder, settings = self.out / "onehot", self.adapter_settings(rate, "onehot")
        self.fit(folder, *settings)

    def best_rate(self) -> str:
        """The learning rate with the best mean over incomplete combinations on validation tiles."""
        means = {}
        for rate in LEARNING_RATES:
            result = SweepResult.from_csv(self.out / "ssf" / rate / "sweep_val" / "sweep.csv")
            means[rate] = result.mean("adapted", "iou")
        best = max(means, key=lambda rate: means[rate])
        print("validation mean iou over incomplete combinations by learning rate:", means, "->", best)
        (self.out / "ssf" / "learning_rates.json").write_text(
            json.dumps({"val_mean_iou": means, "chosen": best}, indent=1) + "\n"
        )
        return best

    def sweep_adapters(self) -> None:
        rate = self.best_rate()
        self.sweep(self.out / "ssf" / rate, *self.adapter_settings(rate))
        self.sweep(self.out / "onehot", *self.adapter_settings(rate, "onehot"), "--method", "adapted_onehot")

    def table(self) -> None:
        folders = [self.out / "ssf" / self.best_rate(), self.out / "onehot", self.out / "modality_dropout"]
        folders += [self.out / "dedicated" / "+".join(names) for names in DEDICATED]
        tables = [str(folder / "sweep" / "sweep.csv") for folder in folders]
        command = [
            sys.executable,
            "-m",
            "lightning_mm",
            "table",
            *tables,
            "--metric",
            "iou",
            "--out",
            str(self.results),
        ]
        subprocess.run(command, check=True)
        finished = sorted(self.out.rglob("fit.done"))
        facts = {
            "machine": f"{os.cpu_count()} CPU cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}",
            "fit_seconds": {
                str(p.parent.relative_to(self.out)): json.loads(p.read_text())["seconds"] for p in finished
            },
            **json.loads((self.out / "ssf" / "learning_rates.json").read_text()),
        }
        (self.results / "study.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def fingerprint(command: list[str]) -> str:
    """A hash of a command and of the configs that it names, so that a changed setting is run again."""
    digest = hashlib.sha256(json.dumps([Path(part).name for part in command]).encode())
    for flag, value in pairwise(command):
        if flag == "-c":
            settings = yaml.safe_load(Path(value).read_text(encoding="utf-8"))  # comments do not count
            digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def main() -> None:
    steps = ["train_base", "train_modality_dropout", "train_dedicated", "train_adapters", "sweep_adapters", "table"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/ombria"), help="folder for runs (%(default)s)")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results" / "ombria", help="folder for the table")
    parser.add_argument("--only", choices=steps, action="append", help="run these steps only")
    parser.add_argument("extra", nargs="*", help="further settings for every command, after `--`")
    options = parser.parse_args()
    study = Study(options.out, options.extra, options.results)
    for step in options.only or steps:
        getattr(study, step)()


if __name__ == "__main__":
    main()
