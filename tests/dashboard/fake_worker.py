"""A worker that renders nothing: it says what a real one would, and ends a job when told to.

FAKE_KEYS: keys of renders that the store holds, which it claims to have made. FAKE_GO: a file whose appearance ends a
job; "fail" in it makes it fail, "die" makes the process end.
"""

import base64
import io
import json
import os
import sys
import threading
import time
from pathlib import Path

import PIL.Image

cancelled = set()
waiting = []


def read():
    for line in sys.stdin:
        message = json.loads(line)
        if "cancel" in message:
            cancelled.add(message["cancel"])
        else:
            waiting.append(message)
    os._exit(0)


def send(event, **values):
    print(json.dumps({"event": event, "number": number, **values}), flush=True)


threading.Thread(target=read, daemon=True).start()
buffer = io.BytesIO()
PIL.Image.new("RGB", (32, 32), (200, 90, 30)).save(buffer, "WEBP")
picture = base64.b64encode(buffer.getvalue()).decode()
go = Path(os.environ["FAKE_GO"])
keys = os.environ.get("FAKE_KEYS", "").split()
while True:
    if not waiting:
        time.sleep(0.01)
        continue
    message = waiting.pop(0)
    number = message["number"]
    send("progress", done=5, total=20, seconds=2.0)
    send("preview", row=0, step=5, image=picture, curve=[[1, 0.5], [5, 2.5]])
    while not go.exists() and number not in cancelled:
        time.sleep(0.01)
    word = go.read_text() if go.exists() else ""
    if word == "die":
        print("out of luck", file=sys.stderr)
        sys.exit(7)
    if word == "fail":
        send("failed", sentence="deep has channels 0-11, not 99")
    elif message["request"]["kind"] == "dream":
        Path(message["request"]["out"]).write_bytes(buffer.getvalue())
        send("finished", file=message["request"]["out"], targets=["x"], objectives=[1.0, 2.0], seconds=3.0)
    else:
        state = "cancelled" if number in cancelled else "finished"
        send(state, keys=keys, targets=["deep:0", "deep:2"][: len(keys)], objectives=[0.25, 2.25][: len(keys)])
