"""Train one run, from plain data to its record."""

import contextlib
import math
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.utilities import rank_zero_only

from replicate.data import load_for
from replicate.errors import GraphError, transient_kind
from replicate.options import Options
from replicate.run import Run
from replicate.store.fields import MAX_ERROR, as_line
from replicate.store.lease import Lease
from replicate.store.measurements import Predictions, labels_sha256
from replicate.store.result import Attempt, Result, status_of
from replicate.store.run_folder import CHECKPOINT, PREDICTIONS, RunFolder
from replicate.training import checkpoint
from replicate.training.build import build_data, build_net, init_net_, make_trainer, stream, stream_seed
from replicate.training.checkpoint import CheckpointOnSignal, StoppedError
from replicate.training.cuda_graph import steps_for
from replicate.training.distributed import ProcessGroup, launch_ranks
from replicate.training.environment import configure
from replicate.training.logger import Logger, Progress
from replicate.training.measurements import Curve, Layers
from replicate.training.module import Classifier, DivergedError
from replicate.training.record import RunRecord, weights_sha256


def train_run(
    run: Run, options: Options, lease: Lease, progress: Progress, logger: Logger, history: Sequence[Attempt] = ()
) -> Result | None:
    """Train one run and write its files.

    Meant for a process of its own: it sets torch's threads, seeds and flags, and Lightning leaves settings behind too.

    Args:
        run: what to train.
        options: where and how.
        lease: of the run; this process holds it.
        progress: receives the progress.
        logger: receives what is measured.
        history: the failed attempts before this one, for the record.

    Returns:
        The record as written; a run that fails has one too, with status `error` and its traceback. None if a signal
        stopped the run: the next call continues from its checkpoint.

    Raises:
        OSError: the record cannot be written.
        GraphError: the step `auto` failed with a CUDA graph. The next attempt needs a new process, whose options name
            this error.
    """
    steps = steps_for(run, options)
    record = RunRecord(run, options, steps.name, history)
    try:
        progress(0, None, "reading data")
        configure(options)
        dataset = record.dataset = load_for(run, options.data_dir)
        url = logger.start(dataset.fingerprint)
        record.url = None if url is None else as_line(url)

        # Continue from a checkpoint, if there is one. The files of an earlier attempt must not outlive it.
        state = checkpoint.load(lease, run, dataset, options.device, record.set_aside.append)
        if state is not None:
            record.resume(state)
        curve = Curve(lease, len(dataset.train_labels), run.batch_size, progress, logger)
        lease.remove(PREDICTIONS)

        with launch_ranks(run, options, partial(train_on_rank, resume=state is not None)) as group:
            data = build_data(run, dataset, options.device)
            data.shard(group.rank, group.size)
            net = build_net(run, len(dataset.classes), options.device)
            if state is None:
                record.init, record.init_passes = init_net_(net, run, data, lambda text: progress(0, None, text))
            progress(0, None, "first iterations" if state is None else "resuming")
            module = Classifier(net, run, group, steps)

            # Runs of the same seed are measured on the same images, the first ones that they train on.
            batch = next(data.fresh_batches(stream(run.seed, "batches"), run.batch_size))
            layers = Layers(lease, dataset.fingerprint, batch, curve, logger)

            def save(states: dict[str, Any]) -> None:
                checkpoint.write(lease, dataset.fingerprint, {**states, "record": record.state_dict()})

            parts = {"module": module, "sampler": data.sampler, "curve": curve, "layers": layers}
            saver = CheckpointOnSignal(parts, options.checkpoint_seconds, save)
            if state is not None:
                saver.restore(state, group)
            logger.initialized(record.init, curve.rows, layers.snapshots)

            # The saver is last, so that a checkpoint holds the row and the snapshot of its iteration.
            make_trainer(run, options, data, [curve, layers, saver]).fit(module, datamodule=data)
            classes, probabilities = (tensor.numpy() for tensor in module.predictions())

        kept = probabilities.astype("float16") if options.save_probabilities else None
        lease.write(PREDICTIONS, Predictions(classes, labels_sha256(dataset.test_labels), kept).to_npz())
        last = curve.rows[-1]
        result = record.result(
            status_of(last["test_accuracy"], len(dataset.classes)),
            iteration=run.iterations,
            test_accuracy=last["test_accuracy"],
            train_loss=last["train_loss"],
            images_per_second=run.iterations * run.batch_size / curve.seconds,
            weights_sha256=weights_sha256(net),
        )
    except StoppedError:
        logger.finish(None)
        return None
    except DivergedError:
        result = record.result("diverged", iteration=module.iteration)
    except Exception as error:
        if isinstance(error, GraphError) and options.step == "auto":
            raise
        result = record.result("error", error=traceback.format_exc()[-MAX_ERROR:], passing=transient_kind(error))

    lease.write_result(result)  # before the logger can fail
    logger.finish(result)
    if result.final:
        lease.remove(CHECKPOINT)
    return result


def train_on_rank(group: ProcessGroup, run: Run, options: Options, resume: bool) -> None:
    """Train on this rank's part of every batch, from the weights of rank 0, and write nothing.

    Args:
        group: the ranks that train the run.
        run: what to train.
        options: where and how.
        resume: whether rank 0 continues from the run's checkpoint.
    """
    rank_zero_only.rank = group.rank  # type: ignore[attr-defined]  # so that Lightning's messages appear once
    configure(options)
    dataset = load_for(run, options.data_dir)
    data = build_data(run, dataset, options.device)
    data.shard(group.rank, group.size)
    module = Classifier(build_net(run, len(dataset.classes), options.device), run, group)
    torch.manual_seed(stream_seed(run.seed, "dropout", group.rank))
    saver = CheckpointOnSignal({"module": module, "sampler": data.sampler}, every=math.inf)
    if resume:
        folder = RunFolder.of(options.out, run)
        saver.restore(checkpoint.read(folder, dataset.fingerprint, options.device), group)
    rows = LambdaCallback(  # takes part in the sums of the Curve on rank 0
        on_validation_start=lambda _, module: module.take("train"),
        on_validation_end=lambda _, module: module.take("val"),
    )
    with contextlib.suppress(DivergedError, StoppedError):
        make_trainer(run, options, data, [rows, saver], group.rank).fit(module, datamodule=data)
        module.predictions()
