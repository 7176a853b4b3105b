"""What people would otherwise write: an MQTT subscriber that inserts events into PostgreSQL.

Usage: paho_postgres.py single|batched HOST PORT CA CERT KEY DSN COUNT

Prints "ready" when subscribed and "done <cpu seconds>" when COUNT events are committed. `single` commits each event
before paho acknowledges it; `batched` commits 500 events or whatever came within 50 ms with one execute_values. paho
1.6 acknowledges a message when its callback returns, so `batched` acknowledges before the commit: that may lose
events in a crash and only makes it faster.
"""
import json
import queue
import resource
import sys
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
import psycopg2
from psycopg2.extras import execute_values

mode, host, port, ca, cert, key, dsn, count = sys.argv[1:9]
count = int(count)
db = psycopg2.connect(dsn)
with db, db.cursor() as cursor:
    cursor.execute(
        "create table if not exists events (box text, epoch text, sequence bigint, id uuid not null, source text,"
        " type text, time timestamptz, data jsonb, primary key (box, epoch, sequence))"
    )
    cursor.execute("create index if not exists events_by_time on events (source, time)")
    cursor.execute("truncate events")
INSERT = "insert into events (box, epoch, sequence, id, source, type, time, data) values %s on conflict do nothing"
ONE = INSERT.replace("%s", "(%s, %s, %s, %s, %s, %s, %s, %s)")


def row(message):
    event = json.loads(message.payload)
    return (
        message.topic.split("/")[2], event["epoch"], int(event["sequence"]), event["id"], event["source"],
        event["type"], event["time"], json.dumps(event["data"]),
    )


seen = 0
finished = threading.Event()
waiting = queue.Queue()


def on_single(client, userdata, message):
    global seen
    with db, db.cursor() as cursor:
        cursor.execute(ONE, row(message))
    seen += 1
    if seen >= count:
        finished.set()


def on_batched(client, userdata, message):
    waiting.put(message)


def write_batches():
    global seen
    while seen < count:
        batch, until = [waiting.get()], time.monotonic() + 0.05
        while len(batch) < 500 and (left := until - time.monotonic()) > 0:
            try:
                batch.append(waiting.get(timeout=left))
            except queue.Empty:
                break
        with db, db.cursor() as cursor:
            execute_values(cursor, INSERT, [row(message) for message in batch], page_size=500)
        seen += len(batch)
    finished.set()


def on_connect(client, userdata, flags, reason, properties):
    client.subscribe("camnet/1/+/event", qos=1)


def on_subscribe(client, userdata, mid, codes, properties):
    print("ready", flush=True)


client = mqtt.Client(client_id="camnet-hub", protocol=mqtt.MQTTv5)
client.tls_set(ca_certs=ca, certfile=cert, keyfile=key)
client.on_connect, client.on_subscribe = on_connect, on_subscribe
client.on_message = on_single if mode == "single" else on_batched
properties = Properties(PacketTypes.CONNECT)
properties.ReceiveMaximum = 1000
client.connect(host, int(port), keepalive=60, clean_start=True, properties=properties)
if mode == "batched":
    threading.Thread(target=write_batches, daemon=True).start()
client.loop_start()
finished.wait()
usage = resource.getrusage(resource.RUSAGE_SELF)
print("done", usage.ru_utime + usage.ru_stime, flush=True)
client.loop_stop()
