"""HTTP for every other language and for existing clients: thin routes over `producer.client`.

app.py          the application: middleware, routes, the page
middleware/     what every request passes before its route: id, headers, limits, keys
rights.py       which right of an API key each path needs
paths.py        paths that no route has, methods that a path does not have
json_bodies.py  bodies that are not JSON in UTF-8: which header is missing
formats/        the bodies and responses of each kind of client
  native.py       POST /v1/rerank, also in Jina's and vLLM's shape
  cohere.py       POST /v2/rerank
  tei.py          POST /rerank when the body has `texts`
  vllm.py         POST /v1/score, /score
  contents.py     queries and documents of every shape -> contents as in a line of input
  fields.py       unknown and misspelt fields; the key of a request that may be repeated
streaming/      responses that are read while they are sent, server-sent events
admission.py    one scored request: validated, sent through the queue in a thread, bounded
errors.py       errors as responses, in the shape that each kind of client knows
jobs.py         jobs, their results and events
downloads.py    the files of a job's output
uploads.py      files streamed into the storage
fleet.py        models, presets, workers, health
history.py      what the fleet did in the last minutes, sampled
metrics.py      Prometheus
openapi_page.py the OpenAPI document as a page, without any other host
"""
