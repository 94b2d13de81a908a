"""A client that knows Kafka alone: ask for 100 answers, read 100 results. `pip install kafka-python`; see docs/kafka.md.

HEADRACE_MODEL_NAME=… python examples/kafka_client.py localhost:9092
"""

import json
import os
import sys
import uuid

from kafka import KafkaConsumer, KafkaProducer

servers, run = sys.argv[1:2] or ["localhost:9092"], uuid.uuid4().hex[:8]
model = os.environ.get("HEADRACE_MODEL_NAME", "smollm2-135m-instruct")
waiting, sent = {f"{run}-{i}" for i in range(100)}, []
producer = KafkaProducer(bootstrap_servers=servers, acks="all", max_block_ms=10_000)
for name in waiting:
    body = {"model": model, "messages": [{"role": "user", "content": f"Say hello to {name}."}], "max_tokens": 16}
    headers = [("authorization", f"Bearer {os.environ['HEADRACE_API_KEY']}".encode())] if "HEADRACE_API_KEY" in os.environ else []
    value = json.dumps({"id": name, "body": body}).encode()
    sent.append(producer.send("headrace.requests", value, key=name.encode(), headers=headers))
for one in sent:
    one.get(timeout=30)  # raises where the broker did not take it: no such topic, not allowed
for record in KafkaConsumer("headrace.results", bootstrap_servers=servers, auto_offset_reset="earliest"):
    result = json.loads(record.value)
    if result["id"] in waiting:
        waiting.discard(result["id"])
        print(result["id"], result["state"], result["error"] or repr(result["response"]["choices"][0]["message"]["content"]))
    if not waiting:
        break
