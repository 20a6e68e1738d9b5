/** English. All dictionaries share these keys; a key that another one lacks falls back to this one. */

/** @type {Record<string, string>} */
export const en = {
  // the frame
  "tab.rerank": "Rerank", "tab.jobs": "Jobs", "tab.fleet": "Fleet", "tabs": "Main navigation", "skip": "Skip to content",
  "model": "Model", "theme": "Toggle dark mode", "workers.count": "{n} workers", "workers.count.one": "{n} worker",
  "ago": "{time} ago", "na": "n/a", "or": "or", "cancel": "Cancel", "pairs": "pairs", "pairs.count": "{n} pairs", "pairs.count.one": "{n} pair",
  "unit.pairs": "pairs/s", "unit.tokens": "tokens", "unit.shards": "queued", "tokens": "{n} tokens", "tokens.one": "{n} token",
  "unreachable": "Connection lost.", "unreachable.about": "Retrying every two seconds. Running jobs are not affected.",
  "key": "API key required", "key.about": "The key is sent to this gateway only and is forgotten when you close the tab.",
  "key.label": "API key", "key.use": "Use key", "key.refused": "This key was rejected.", "key.invalid": "A key may contain only ASCII letters, digits and symbols, without spaces.", "request_id": "Request {id}",

  // notices about the model
  "no_worker": "No worker is running", "no_worker.about": "Nothing can be scored without one. To start a worker, run this on a machine that can reach the same Redis:",
  "loading": "{model} is loading", "loading.about": "This may take a minute or two. You can prepare your query now and run it then.",
  "text_only": "{model} reads text only", "text_only.use": "Use {model}", "text_only.about": "To rank images, start a worker with a Qwen3-VL reranker.",

  // query and settings
  "instruction": "Instruction", "instruction.presets": "Presets…", "instruction.hint": "Defines what counts as relevant. English works best.",
  "instruction.default": "Given a web search query, retrieve relevant passages that answer the query",
  "profiles": "Profiles",
  "query": "Query", "query.itself": "The query", "query.kind": "Query type", "query.text": "Text", "query.image": "Image", "query.both": "Image + text", "query.video": "Video frames",
  "query.placeholder": "What are you looking for?", "query.add.image": "Browse", "query.add.frames": "Browse",
  "query.first": "A query can have only one image; {name} is used.",
  "query.drop.image": "Drop or paste an image", "query.drop.frames": "Drop frames in order",
  "settings": "Settings", "preset": "Image size preset", "mode": "Resize mode", "mode.crop": "Crop", "mode.fit": "Fit",
  "mode.crop.about": "Center-crop to the nearest common aspect ratio; the cropped area is shaded on the cards", "mode.fit.about": "Keep the whole image",
  "preset.general": "General", "preset.product": "Product", "preset.art": "Art", "preset.art-detail": "Art, detailed", "preset.document": "Document", "preset.reference": "Model authors’ sizes",
  "threshold": "Quality threshold", "threshold.none": "Applies to images whose quality is below this value.",
  "threshold.reject": "{poor} of {all} would be rejected.", "threshold.downweight": "{poor} of {all} would get a lower score.", "threshold.off": "{poor} of {all} are below the threshold; no action is taken.",
  "threshold.query.reject": "The query image is below the threshold: nothing would be scored.", "threshold.query.downweight": "The query image is below the threshold: every score would be lower.", "threshold.query.off": "The query image is below the threshold; no action is taken.",
  "threshold.unknown": "{n} not assessed yet.", "action": "Below the threshold", "action.reject": "Reject", "action.downweight": "Lower the score", "action.off": "Do nothing",
  "temperature": "Temperature", "temperature.about": "Above 1, scores move closer together; below 1, further apart. The order does not change.", "top_n": "Maximum results", "top_n.all": "all",
  "explain": "Sub-scores", "explain.about": "Visual match, text alignment and consistency. Takes up to 5× the compute.",

  // candidates
  "candidates": "Candidates", "candidates.count": "{n} candidates", "candidates.count.one": "{n} candidate", "candidates.clear": "Remove all",
  "candidates.reading": "reading {n} more", "candidates.video": "Frames of one video", "candidates.video.about": "Images dropped here become one candidate, ordered by file name", "candidates.frames": "Browse frames",
  "video": "video", "video.frames": "Frames", "video.fps": "Frames per second", "video.fps.about": "Frame rate of the video; if empty, the model authors’ default is used",
  "frames.count": "{n} frames", "frames.count.one": "{n} frame", "frames.used": "The model uses {n} of {all} frames", "remove.frame": "Remove frame {n}, {name}",
  "candidates.drop": "Drop or paste any number of images and texts", "candidates.browse": "Browse files", "candidates.text": "Enter text",
  "candidates.lines": "One candidate per line", "candidates.lines.add": "Add lines", "candidate.text": "Text", "caption": "Caption (optional)",
  "duplicate": "Duplicate of {n}", "remove.candidate": "Remove {name}", "replace.candidate": "Replace {name}", "remove.image": "Remove {name}",
  "image.input": "Model input {size}", "image.input.about": "Size and token count after resizing with the chosen preset", "image.cropped": " · {share} cropped",
  "image.sent": "{share} uploaded", "image.assessing": "Assessing quality…", "image.unreadable": "not a readable image",
  "quality.short": "quality {value}", "quality.poor": "below threshold", "quality.is": "Quality {value} out of 1", "quality.below": "Quality {value} is below the threshold of {threshold}",
  "quality.hint": "Use a sharper, better exposed image, or lower the threshold.",
  "examples.lead": "No candidates yet. Try an example:",

  // running
  "rerank": "Rerank", "steps": "Progress", "stage.uploading": "Upload", "stage.queued": "Queue", "stage.scoring": "Score", "stage.done": "Done",
  "need.query": "Enter a query first.", "need.image": "Add a query image first.", "need.frames": "Add query frames first.", "need.candidates": "Add candidates first.",
  "progress.uploading": "Uploading: {done} of {total}", "progress.sent": "Request sent", "progress.next": "Queued: next in line", "progress.queued": "Queued: {n} shards ahead", "progress.queued.one": "Queued: {n} shard ahead",
  "progress.scoring": "Scoring: {done} of {total} pairs done", "progress.ready": "Ready to rank {n} candidates", "progress.ready.one": "Ready to rank {n} candidate", "progress.done": "Ranked in {seconds}",
  "busy": "The queue is full; retrying in {n} seconds", "busy.one": "The queue is full; retrying in {n} second",

  // results
  "results": "Results", "results.count": "{n} ranked", "results.none": "No candidate was scored.", "view": "View", "view.list": "List", "view.grid": "Grid",
  "run": "Run {n}", "run.shown": "Run to show", "run.compare": "Run to compare with", "run.compare.none": "Compare with…",
  "compare.other": "Rank {rank} in the other run", "compare.absent": "Not in the other run",
  "export": "Export", "copy.curl": "Copy as curl", "copy.python": "Copy as Python", "copy.line": "Copy as a job input line", "copy.line.about": "Without temperature, image options and sub-scores, which are set per job.", "export.uploads": "Copied requests refer to uploaded images, which expire: after a day, unless configured otherwise.", "export.json": "Save as JSON", "export.csv": "Save as CSV",
  "copied": "Copied",
  "rank.new": "new", "rank.same": "Same rank as in the previous run", "rank.up": "{n} up since the previous run", "rank.down": "{n} down since the previous run",
  "rejected": "Rejected", "rejected.count": "{n} rejected, not scored", "errors": "Errors", "errors.count": "{n} failed, not scored",
  "anyway": "Score anyway", "anyway.done": "scored anyway", "again": "Try again",
  "overall": "Overall", "overall.about": "The model’s score for the whole content; determines the ranking.",
  "visual_match": "Visual match", "visual_match.about": "The candidate’s image against the query’s image or, without one, its text. One extra pass through the model.", "visual_match.missing": "the candidate has no image",
  "text_alignment": "Text alignment", "text_alignment.about": "Text against text; if one side has none, its image is used. One extra pass through the model.", "text_alignment.missing": "neither side has text",
  "cross_modal_consistency": "Consistency", "cross_modal_consistency.about": "Whether image and text lead to the same verdict, be it relevant or irrelevant.", "cross_modal_consistency.missing": "needs images and text",
  "part.not_requested": "turn on sub-scores",
  "margin": "Margin", "detail.original": "Original size", "detail.used": "Used size", "detail.cropped": "Cropped", "detail.tokens": "Visual tokens", "detail.quality": "Quality",
  "detail.plain_margin": "Margin before quality penalty", "detail.truncated": "Truncated tokens", "detail.time": "Time",
  "provenance.model": "Model", "provenance.revision": "Revision", "provenance.template": "Template", "provenance.dtype": "Precision", "provenance.attention": "Attention", "provenance.device": "Device", "provenance.version": "Version", "provenance.pixels": "Image processing", "provenance.video": "Video processing",

  // screen reader announcements and messages about files
  "announce.candidates": "{n} candidates added.", "announce.candidates.one": "{n} candidate added.", "announce.images": "{n} images added to the query.", "announce.images.one": "Image added to the query.",
  "announce.video": "Video with {n} frames added.", "announce.video.one": "Video with {n} frame added.",
  "unreadable": "Cannot read {names}.", "unreadable.table": "Tables and JSON Lines are job input: drop them on the Jobs tab.", "unreadable.video": "Video files are not supported: drop the frames as images instead.", "announce.done": "{scored} ranked in {seconds}.", "announce.anyway": "Scored and added to the ranking.", "announce.failed": "Scoring failed.",
  "announce.copied": "Copied.", "announce.job": "Job {name}: {state}.",

  // jobs
  "state.all": "All", "state.running": "Running", "state.paused": "Paused", "state.finishing": "Finishing", "state.done": "Done", "state.cancelled": "Cancelled", "state.failed": "Failed",
  "state.ready": "Ready", "state.loading": "Loading", "state.draining": "Draining",
  "job": "Job", "job.state": "State", "job.progress": "Progress", "job.rate": "Throughput", "job.eta": "Time left", "job.created": "Started", "job.done": "Pairs", "job.took": "Duration", "scored": "Scored",
  "job.errors.n": "{n} errors", "job.errors.n.one": "{n} error", "job.bad_lines.n": "{n} bad lines", "job.bad_lines.n.one": "{n} bad line", "job.bad_lines": "Bad lines, among the errors", "job.rejected.n": "{n} rejected", "jobs.none.state": "No jobs in this state.", "jobs.none": "No jobs yet. Start one here or from a terminal:",
  "job.new": "New job", "job.start": "Start job", "job.input": "Input", "job.file": "File: JSON Lines or CSV, optionally gzipped, or Parquet", "job.uri": "URI that the workers can read", "job.name": "Name",
  "job.output": "Output URI (default: kept by the gateway)", "job.profile": "Profile", "job.profile.none": "none", "job.options": "Options", "job.need.input": "Choose a file or enter a URI, but not both.",
  "job.queries": "Catalog queries, one per line", "job.queries.about": "With queries, the input is a catalog of images: every query is scored against every image.",
  "job.pause": "Pause", "job.resume": "Resume", "job.cancel": "Cancel", "job.retry": "Retry failed", "job.results": "Results", "job.partial": "Partial results",
  "job.format": "Format of catalog results", "format.jsonl": "JSON Lines", "format.parquet": "Parquet",
  "downloads": "Downloads", "downloads.more": "and {n} more parts; the manifest lists all of them", "downloads.rows": "{n} rows", "downloads.rows.one": "{n} row", "downloads.results": "every input line with its ranking",
  "downloads.manifest": "counts, options, provenance, parts", "downloads.errors": "what was not scored, and why", "downloads.ranking": "the best matches for each query", "downloads.jsonl": "JSON Lines", "downloads.parquet": "Parquet",
  "errors.list": "Not scored: {n}", "errors.line": "line {n}", "errors.first": "Only the first {n} are shown; the results contain all of them.", "errors.missing": "The errors could not be loaded.",

  // charts and fleet
  "chart.empty": "No data yet", "chart.rate": "Throughput", "chart.rate.job": "Since you opened this page", "chart.queue": "Queue depth", "chart.queue.about": "Shards waiting for a worker",
  "chart.scores": "Score distribution", "chart.scores.summary": "mean {mean} · {above} above 0.9 · {below} below 0.1",
  "chart.batch": "Batch size", "chart.batch.about": "Maximum tokens per pack; each dot is a change, with its reason", "chart.batch.start": "measured at startup",
  "chart.latency": "Pack latency", "chart.latency.about": "How the time of each pack was spent", "chart.latency.packs": "last {n} packs", "chart.latency.packs.one": "last pack",
  "chart.latency.earlier": "earlier", "chart.latency.now": "now", "stage.preparing_s": "Device idle", "stage.waiting_s": "Waiting", "stage.forward_s": "Computing",
  "fleet.workers": "Workers", "fleet.devices": "Devices", "fleet.rate": "Throughput", "fleet.queued": "Queued shards",
  "worker.rate": "Throughput", "worker.batch": "Batch size", "worker.reason": "Reason", "worker.storage": "Waits for the storage", "worker.precision": "Precision", "worker.latency": "Pack latency", "worker.steps": "Mean step times",
  "step.load": "load", "step.fetch": "fetch", "step.decode": "decode", "step.resize": "resize", "step.quality": "quality", "step.tokenize": "tokenize", "step.forward": "compute", "step.store": "store",
  "worker.shards": "Active shards",
  "worker.memory": "Memory", "worker.ooms": "OOM errors", "worker.busy": "Computing", "worker.preparing": "Waiting for input",
  "queues": "Queues", "queues.none": "The queues are empty.", "queue.priority": "Priority", "queue.depth": "Queued shards", "priority.interactive": "Interactive", "priority.normal": "Normal", "priority.bulk": "Bulk",
};
