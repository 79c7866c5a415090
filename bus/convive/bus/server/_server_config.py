"""The settings of the embedded server (architecture.md, section 3, says why each one is there).

`deploy/nats.conf` has the same settings for a cluster; `tests/test_compose.py` compares the two.
"""

import json
from pathlib import Path

from convive.bus.server._data_dir import LOG, server_name


def server_config(data: Path, port: int, *, fast: bool) -> str:
    """The text of a configuration file for a server on 127.0.0.1 that keeps everything below `data`.

    `fast` leaves syncing at the server's default, every two minutes: a killed server loses nothing,
    a machine that loses power may lose the acknowledged records of these minutes.
    """
    sync = "" if fast else "\n  sync_interval: always"
    return f"""\
server_name: {_quoted(server_name(data))}
listen: "127.0.0.1:{port}"
max_payload: 1MB
log_file: {_quoted(data / LOG)}
logfile_size_limit: 1MB
logfile_max_num: 3
jetstream {{
  # The server adds `jetstream` to this path.
  store_dir: {_quoted(data)}{sync}
  max_buffered_msgs: 200000
  max_buffered_size: 256MB
  limits {{ default_max_consumers: 100000 }}
}}
feature_flags {{ js_ack_fc_v2: false }}
"""


def _quoted(value: str | Path) -> str:
    # A quoted string of this format is a JSON string without \u escapes; inside quotes `$` is not a variable.
    return json.dumps(str(value), ensure_ascii=False)
