/** English. Keys are shared by all dictionaries; a missing key falls back to this one. */

/** @type {Record<string, string>} */
export const en = {
  // the frame
  "tab.rerank": "Rerank", "tab.jobs": "Jobs", "tab.fleet": "Fleet", "tabs": "Parts of the page", "skip": "Skip to the content",
  "model": "Model", "theme": "Light or dark", "workers.count": "{n} workers", "workers.count.one": "{n} worker",
  "ago": "{time} ago", "na": "n/a", "or": "or", "cancel": "Cancel", "pairs": "pairs", "pairs.count": "{n} pairs", "pairs.count.one": "{n} pair",
  "unit.pairs": "pairs/s", "unit.tokens": "tokens", "unit.shards": "waiting", "tokens": "{n} tokens", "tokens.one": "{n} token",
  "unreachable": "The connection is lost.", "unreachable.about": "Trying again every two seconds; nothing that runs is affected.",
  "key": "This gateway asks for a key", "key.about": "It is kept until this tab is closed, and sent to this gateway only.",
  "key.label": "API key", "key.use": "Use the key", "key.refused": "This key was refused.", "key.wrong": "A key is made of ASCII letters, digits and signs, without spaces.", "request_id": "Request {id}",

  // what stands in the way
  "no_worker": "No worker is running", "no_worker.about": "Nothing can be scored until one is. On a machine that reaches the same Redis, run:",
  "loading": "{model} is being loaded", "loading.about": "This may take a minute or two. What you prepare here is kept, and can be run then.",
  "blind": "{model} reads text only", "blind.use": "Use {model}", "blind.about": "Start a worker with a Qwen3-VL reranker for pictures.",

  // asking
  "instruction": "Instruction", "instruction.presets": "Presets…", "instruction.hint": "Says what counts as relevant. English works best.",
  "instruction.default": "Given a web search query, retrieve relevant passages that answer the query",
  "profiles": "Profiles",
  "query": "Query", "query.itself": "The query", "query.kind": "What the query is", "query.text": "Text", "query.image": "Picture", "query.both": "Picture + text", "query.video": "Video frames",
  "query.placeholder": "What are you looking for?", "query.add.picture": "Browse", "query.add.frames": "Browse",
  "query.first": "A query has one picture: {name} was taken.",
  "query.drop.picture": "Drop or paste a picture", "query.drop.frames": "Drop frames, in order",
  "settings": "Settings", "preset": "What pictures are brought to", "mode": "Resize", "mode.crop": "Crop", "mode.fit": "Fit",
  "mode.crop.about": "Cut around the centre to the nearest usual shape; what is cut away is shaded on the cards", "mode.fit.about": "Keep the whole picture",
  "preset.general": "General", "preset.product": "Product", "preset.art": "Art", "preset.art-detail": "Art, detail", "preset.document": "Document", "preset.reference": "Authors’ own sizes",
  "threshold": "Quality threshold", "threshold.none": "Pictures of a lower quality are acted upon.",
  "threshold.reject": "{poor} of {all} would be rejected.", "threshold.downweight": "{poor} of {all} would score lower.", "threshold.off": "{poor} of {all} are below; nothing happens to them.",
  "threshold.query.reject": "The query’s picture is below it: nothing would be scored.", "threshold.query.downweight": "The query’s picture is below it: every score would be lower.", "threshold.query.off": "The query’s picture is below it; nothing happens.",
  "threshold.unknown": "{n} not judged yet.", "action": "Below the threshold", "action.reject": "Reject", "action.downweight": "Lower the score", "action.off": "Do nothing",
  "temperature": "Temperature", "temperature.about": "Above 1 draws scores together, below 1 drives them apart; the order stays", "top_n": "Show at most", "top_n.all": "all",
  "explain": "Sub-scores", "explain.about": "visual match, text alignment, consistency; up to 5 × the work",

  // candidates
  "candidates": "Candidates", "candidates.count": "{n} candidates", "candidates.count.one": "{n} candidate", "candidates.clear": "Remove all",
  "candidates.reading": "reading {n} more", "candidates.video": "Frames of one video", "candidates.video.about": "What is dropped here becomes one candidate, in the order of the names", "candidates.frames": "Browse frames",
  "video": "video", "video.frames": "Frames", "video.fps": "Frames per second", "video.fps.about": "How many frames stand for a second; unset, as the authors have it",
  "frames.count": "{n} frames", "frames.count.one": "{n} frame", "frames.read": "{n} of {all} frames are read", "remove.frame": "Remove frame {n}, {name}",
  "candidates.drop": "Drop or paste pictures and text, by the dozen", "candidates.browse": "Browse files", "candidates.text": "Type text",
  "candidates.lines": "One candidate a line", "candidates.lines.add": "Add lines", "candidate.text": "Text", "caption": "Caption (optional)",
  "duplicate": "Same as {n}", "remove.candidate": "Remove {name}", "replace.candidate": "Replace {name}", "remove.picture": "Remove {name}",
  "picture.seen": "Model sees {size}", "picture.seen.about": "Size and tokens after resizing, by the chosen preset", "picture.cropped": " · {share} cut away",
  "picture.sent": "{share} uploaded", "picture.examining": "Quality is being measured", "picture.unreadable": "not a picture that can be read",
  "quality.short": "quality {value}", "quality.poor": "below threshold", "quality.is": "Quality {value} of 1", "quality.below": "Quality {value} is below the threshold {threshold}",
  "quality.hint": "Take a sharper, better exposed picture, or lower the threshold.",
  "examples.lead": "Nothing here yet. Try an example:",

  // running
  "rerank": "Rerank", "steps": "Progress", "stage.uploading": "Upload", "stage.queued": "Queue", "stage.scoring": "Score", "stage.done": "Done",
  "need.query": "Write a query first.", "need.picture": "Add a picture as query first.", "need.frames": "Add frames as query first.", "need.candidates": "Add candidates first.",
  "progress.uploading": "Uploading: {done} of {total}", "progress.sent": "Sent", "progress.next": "Next in the queue", "progress.queued": "In the queue, {n} pieces of work ahead", "progress.queued.one": "In the queue, {n} piece of work ahead",
  "progress.scoring": "A worker has it: {done} of {total} scored", "progress.ready": "{n} ready to be ranked", "progress.done": "Ranked in {seconds}",
  "busy": "The queue is full; trying again in {n} seconds", "busy.one": "The queue is full; trying again in {n} second",

  // results
  "results": "Results", "results.count": "{n} ranked", "results.none": "No candidate has a score.", "view": "Show as", "view.list": "List", "view.grid": "Grid",
  "run": "Run {n}", "run.shown": "Run that is shown", "run.compare": "Run to compare with", "run.compare.none": "Compare with…",
  "compare.other": "Rank {rank} in the other run", "compare.absent": "Not in the other run",
  "share": "Take away", "copy.curl": "Copy as curl", "copy.python": "Copy as Python", "copy.line": "Copy as a job’s line", "copy.line.about": "Temperature, picture options and sub-scores are set for the job as a whole.", "share.uploads": "What is copied finds the pictures as long as uploads are kept: a day, unless set otherwise.", "export.json": "Save as JSON", "export.csv": "Save as CSV",
  "rank.new": "new", "rank.same": "Same rank as in the last run", "rank.up": "{n} up since the last run", "rank.down": "{n} down since the last run",
  "rejected": "Rejected", "rejected.count": "{n} rejected, without a score", "errors": "Errors", "errors.count": "{n} failed, without a score",
  "anyway": "Score anyway", "anyway.done": "scored anyway", "again": "Try again",
  "overall": "Overall", "overall.about": "What the ranking goes by: the model’s score of the whole",
  "visual_match": "Visual match", "visual_match.about": "The candidate’s picture against the query’s picture, else its text. One more pass through the model.", "visual_match.missing": "the candidate has no picture",
  "text_alignment": "Text alignment", "text_alignment.about": "Words against words; where a side has none, its picture. One more pass through the model.", "text_alignment.missing": "no side has words",
  "cross_modal_consistency": "Consistency", "cross_modal_consistency.about": "Whether picture and words give the same verdict; both may agree that it is irrelevant.", "cross_modal_consistency.missing": "needs pictures and words",
  "part.not_asked": "run with sub-scores",
  "margin": "Margin", "detail.original": "Original size", "detail.used": "Used size", "detail.cropped": "Cut away", "detail.tokens": "Visual tokens", "detail.quality": "Quality",
  "detail.plain_margin": "Margin before quality", "detail.truncated": "Tokens cut off", "detail.time": "Time",
  "provenance.model": "Model", "provenance.revision": "Revision", "provenance.template": "Template", "provenance.dtype": "Numbers", "provenance.attention": "Attention", "provenance.device": "Device", "provenance.version": "Version", "provenance.pixels": "Pictures", "provenance.video": "Video",

  // what is read aloud
  "announce.candidates": "{n} candidates added.", "announce.candidates.one": "{n} candidate added.", "announce.pictures": "{n} pictures added to the query.", "announce.pictures.one": "Picture added to the query.",
  "announce.video": "A video of {n} frames added.", "announce.video.one": "A video of {n} frame added.",
  "unreadable": "Could not be read: {names}.", "unreadable.table": "Tables and JSON Lines are a job’s input: drop them on Jobs.", "unreadable.video": "Video files are not read: drop their frames as pictures.", "announce.done": "{scored} ranked in {seconds}.", "announce.anyway": "Scored, and placed in the ranking.", "announce.failed": "It could not be scored.",
  "announce.copied": "Copied.", "announce.job": "Job {name}: {state}.",

  // jobs
  "state.all": "All", "state.running": "Running", "state.paused": "Paused", "state.finishing": "Finishing", "state.done": "Done", "state.cancelled": "Cancelled",
  "state.ready": "Ready", "state.loading": "Loading", "state.draining": "Stopping",
  "job": "Job", "job.state": "State", "job.progress": "Progress", "job.rate": "Rate", "job.eta": "Left", "job.created": "Begun", "job.done": "Pairs", "job.took": "Took", "scored": "Scored",
  "job.errors.n": "{n} errors", "job.rejected.n": "{n} rejected", "jobs.none.such": "No such job.", "jobs.none": "No job yet. Begin one here, or from a terminal:",
  "job.new": "New job", "job.start": "Start", "job.input": "Input", "job.file": "A file: JSON Lines, gzip, CSV or Parquet", "job.uri": "A URI that the workers can read", "job.name": "Name",
  "job.output": "Output URI; without one it is kept here", "job.profile": "Profile", "job.profile.none": "none", "job.options": "Options", "job.need.input": "Choose a file or name a URI, one of both.",
  "job.queries": "Queries of a catalog, one a line", "job.queries.about": "With queries, the input is a catalog of images: every query meets every image.",
  "job.pause": "Pause", "job.resume": "Resume", "job.cancel": "Cancel", "job.retry": "Retry what failed", "job.results": "Results", "job.partial": "Results so far",
  "job.format": "Rows of a catalog as", "format.jsonl": "JSON Lines", "format.parquet": "Parquet",
  "downloads": "Downloads", "downloads.more": "and {n} more parts; the manifest names them all", "downloads.rows": "{n} rows", "downloads.rows.one": "{n} row", "downloads.results": "every line with its ranking",
  "downloads.manifest": "counts, options, provenance, parts", "downloads.errors": "what has no score, and why", "downloads.ranking": "the best of each query", "downloads.jsonl": "JSON Lines", "downloads.parquet": "Parquet",
  "errors.list": "Without a score: {n}", "errors.line": "line {n}", "errors.first": "The first {n}; the results have them all.", "errors.missing": "What failed could not be loaded.",

  // charts and fleet
  "chart.empty": "Nothing yet", "chart.rate": "Throughput", "chart.rate.job": "Since this page is open", "chart.queue": "Queue depth", "chart.queue.about": "Shards that wait for a worker", "chart.scores": "Scores",
  "chart.batch": "Batch size", "chart.batch.about": "Tokens in a pack at the most; each dot is a change, with its reason", "chart.batch.start": "measured at the start",
  "chart.latency": "Time of the last packs", "chart.latency.about": "Where the time of each pack went", "chart.latency.packs": "last {n} packs", "chart.latency.packs.one": "last pack",
  "chart.latency.earlier": "earlier", "chart.latency.now": "now", "stage.preparing_s": "Device idle", "stage.waiting_s": "Waiting", "stage.forward_s": "Computing",
  "fleet.workers": "Workers", "fleet.devices": "Devices", "fleet.rate": "Throughput", "fleet.queued": "Waiting",
  "worker.rate": "Rate", "worker.batch": "Batch", "worker.reason": "Because", "worker.numbers": "Numbers", "worker.latency": "Time of a pack", "worker.steps": "Mean of a step",
  "step.load": "load", "step.fetch": "fetch", "step.decode": "decode", "step.resize": "resize", "step.quality": "quality", "step.tokenize": "tokenize", "step.forward": "compute", "step.store": "store",
  "worker.hands": "Shards in hand",
  "worker.memory": "Memory", "worker.ooms": "Out of memory", "worker.busy": "Computing", "worker.preparing": "Waiting for input",
  "queues": "Queues", "queues.none": "Nothing waits.", "queue.priority": "Priority", "queue.depth": "Waiting", "priority.interactive": "Interactive", "priority.normal": "Normal", "priority.bulk": "Bulk",
};
