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

from replicate.data.sources import load
from replicate.errors import GraphError, transient_kind
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import Lease
from replicate.store.predictions import Predictions, labels_sha256
from replicate.store.result import Attempt, Result
from replicate.store.run_folder import CHECKPOINT, PREDICTIONS, RunFolder
from replicate.training import checkpoint
from replicate.training.build import build_data, build_net, init_net_, make_trainer
from replicate.training.checkpoint import Checkpoint, Stateful, StoppedError
from replicate.training.cuda_graph import steps_for
from replicate.training.curve import Curve
from replicate.training.distributed import ProcessGroup, launch_ranks
from replicate.training.environment import configure
from replicate.training.layers import Layers
from replicate.training.logger import Logger
from replicate.training.module import Classifier, DivergedError
from replicate.training.record import Failed, Finished, RunRecord, weights_sha256
from replicate.training.streams import stream, stream_seed


def train_run(
    run: Run, options: Options, lease: Lease, loggers: Sequence[Logger] = (), history: Sequence[Attempt] = ()
) -> Result | None:
    """Train one run and write its files.

    Meant for a process of its own: it sets torch's threads, seeds and flags, and Lightning leaves some of its own.

    Args:
        run: what to train.
        options: where and how.
        lease: of the run, which this process holds.
        loggers: are told what happens.
        history: the failed attempts before this one, for the record.

    Returns:
        The record as written. A run that fails is a record too, with status `error` and its traceback. None if a signal
        stopped the run: the next call continues from its checkpoint.

    Raises:
        OSError: the record cannot be written.
        GraphError: `auto` has found that it needs a new process, whose options name this error.
    """
    steps = steps_for(options)
    record = RunRecord(run, options, steps, history)
    try:
        configure(options)
        dataset = record.dataset = load(run.dataset, options.data_dir)
        for logger in loggers:
            logger.start(dataset.fingerprint)
        identity = checkpoint.identity(run, dataset.fingerprint)
        state = checkpoint.load(lease, identity, options.device)
        if state is not None:
            record.resume(state)
        curve = Curve(lease, len(dataset.train_labels), run.batch_size, loggers)  # no row of an earlier attempt stays
        lease.remove(PREDICTIONS)

        with launch_ranks(run, options, partial(train_share, resume=state is not None)) as group:
            data = build_data(run, dataset, options.device, group)
            net = build_net(run, len(dataset.classes), options.device)
            if state is None:
                record.init = init_net_(net, run, data)
            module = Classifier(net, run, group, steps)
            # All inits and activations of a seed are measured on the same images, and see them first in training.
            batch = data.first_batch(stream(run.seed, "batches"))
            layers = Layers(lease, dataset.fingerprint, batch, curve, loggers)

            def save(trained: dict[str, Any]) -> None:
                checkpoint.write(lease, identity, {**trained, "record": record.state_dict()})

            parts: dict[str, Stateful] = {"module": module, "sampler": data.sampler, "curve": curve, "layers": layers}
            saver = Checkpoint(parts, options.checkpoint_seconds, save)
            if state is not None:
                saver.restore(state, group)
            for logger in loggers:
                logger.initialized(record.init, curve.rows, layers.snapshots)
            # In this order: a row, or a snapshot, is complete before a checkpoint holds it.
            make_trainer(run, options, data, [layers, curve, saver]).fit(module, datamodule=data)
            predicted = module.predictions().numpy()
        predictions = Predictions(predicted, labels_sha256(dataset.test_labels))
        lease.write(PREDICTIONS, predictions.to_npz())
        images_per_second = run.iterations * run.batch_size / curve.seconds
        outcome: Finished | DivergedError | Failed = Finished(curve.rows[-1], images_per_second, weights_sha256(net))
    except StoppedError:
        for logger in loggers:
            logger.finish(None)
        return None
    except DivergedError as error:
        outcome = error
    except Exception as error:
        if isinstance(error, GraphError) and options.step == "auto":
            raise
        outcome = Failed(traceback.format_exc(), transient_kind(error))
    result = lease.write_result(record.result(outcome))  # before anything else can fail
    for logger in loggers:
        logger.finish(result)
    if result.final:
        lease.remove(CHECKPOINT)
    return result


def train_share(group: ProcessGroup, run: Run, options: Options, resume: bool) -> None:
    """Train on this rank's part of every batch, from the weights of rank 0, and write nothing.

    Args:
        group: of the ranks that train the run.
        run: what to train.
        options: where and how.
        resume: whether rank 0 continues from the run's checkpoint.
    """
    rank_zero_only.rank = group.rank  # type: ignore[attr-defined]  # Lightning's messages appear once
    configure(options)
    dataset = load(run.dataset, options.data_dir)
    data = build_data(run, dataset, options.device, group)
    module = Classifier(build_net(run, len(dataset.classes), options.device), run, group)
    torch.manual_seed(stream_seed(run.seed, "dropout", group.rank))
    saver = Checkpoint({"module": module, "sampler": data.sampler}, every=math.inf)
    if resume:
        identity = checkpoint.identity(run, dataset.fingerprint)
        saver.restore(checkpoint.read(RunFolder.of(options.out, run), identity, options.device), group)
    rows = LambdaCallback(  # adds this rank's sums to those of the Curve on rank 0
        on_validation_start=lambda _, module: module.take("train"),
        on_validation_end=lambda _, module: module.take("val"),
    )
    with contextlib.suppress(DivergedError, StoppedError):
        make_trainer(run, options, data, [rows, saver], group.rank).fit(module, datamodule=data)
        module.predictions()
