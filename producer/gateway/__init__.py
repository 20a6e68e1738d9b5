"""HTTP for every other language and for existing clients: thin routes over `producer.client`.

app.py       the application: routes, middlewares, the page
door.py      what happens before a route: request id, key, body cap, headers, counting
errors.py    errors of the tree as answers, in the shape that each family of clients knows
contents.py  queries and documents of all shapes -> contents as a line of input has them
fields.py    fields that are foreign or misspelt; the key of a request that may be repeated
asking.py    one scored request: validated, sent through the queue in a thread, bounded
native.py    POST /v1/rerank, also in Jina's and vLLM's shape
staged.py    the same as server-sent events: where the request stands, then its answer
cohere.py    POST /v2/rerank
tei.py       POST /rerank when the body has `texts`
vllm.py      POST /v1/score, /score
jobs.py      jobs, their results and events
downloads.py the files of a job's output, to be downloaded
streams.py   answers that are read while they are sent
events.py    server-sent events
uploads.py   bytes streamed into the storage
fleet.py     models, presets, workers, health
history.py   what the fleet did in the last minutes, sampled
metrics.py   Prometheus
docs.py      the OpenAPI document as a page, without any foreign host
"""
