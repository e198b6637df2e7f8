"""A sweep for TensorBoard's HParams tab, in its own format."""

import shutil
from pathlib import Path
from typing import Any

PLUGIN = "hparams"
SESSION_START, SESSION_END = "_hparams_/session_start_info", "_hparams_/session_end_info"


def write_trial(
    folder: Path, group: str, point: dict[str, Any], metric: str, values: dict[int, float]
) -> None:
    """Write a point: a session per seed, all in one group, which TensorBoard averages.

    No summary of the whole experiment is written: TensorBoard reads only the first one and would
    hide the other sweeps under log/. Without a summary it reads the sessions.

    Args:
        folder: of the point; its content is replaced.
        group: the group's name.
        point: {setting: number or text}.
        metric: key of the metric, such as val/loss/micro.
        values: {seed: the metric in the best round}.
    """
    from tensorboardX import SummaryWriter
    from tensorboardX.proto.api_pb2 import Status
    from tensorboardX.proto.plugin_hparams_pb2 import SessionEndInfo, SessionStartInfo

    shutil.rmtree(folder, ignore_errors=True)
    start = SessionStartInfo(group_name=group)
    for name, value in point.items():
        if isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
    end = SessionEndInfo(status=Status.Value("STATUS_SUCCESS"))
    for seed, value in values.items():
        with SummaryWriter(str(folder / f"seed-{seed}")) as writer:
            writer.file_writer.add_summary(_summary(SESSION_START, session_start_info=start))
            writer.file_writer.add_summary(_summary(SESSION_END, session_end_info=end))
            writer.add_scalar(f"best/{metric.replace('@', '_at_')}", value)


def _summary(tag: str, **content: Any) -> Any:
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
    from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata

    data = HParamsPluginData(version=0, **content).SerializeToString()
    plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN, content=data)
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))])
