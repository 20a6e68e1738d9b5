"""What every request passes on its way to a route, each file one concern, all plain ASGI.

A streamed body or response goes through untouched. `app.py` composes them, outermost first:

slashes.py          a path with a slash too many is as without it
request_id.py       an id for the request, in its response and in every line of log
safe_headers.py     headers that limit what a browser does with a response
request_count.py    counts requests and measures how long they take
internal_errors.py  any error that nobody else answered is answered with status 500
slow_clients.py     breaks off a body that comes too slowly, and a response that is not read
body_limits.py      bounds one body, and all bodies that are being received together
keys.py             with API keys: only requests with a key get in, that may do what they want
  wrong_keys.py       counts wrong keys by address
names.py            without: only requests to this host's names, and from no other site's page
head_requests.py    HEAD is answered as GET, without the body

Those outside internal_errors.py also handle the responses that it gives; those inside
slow_clients.py read a body that comes in time.
"""
