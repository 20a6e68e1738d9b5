/** 简体中文 */

/** @type {Record<string, string>} */
export const zh = {
  // 页面框架
  "tab.rerank": "重排", "tab.jobs": "任务", "tab.fleet": "集群", "tabs": "主导航", "skip": "跳到正文",
  "model": "模型", "theme": "切换深色模式", "workers.count": "{n} 个 worker", "workers.count.one": "{n} 个 worker",
  "ago": "{time}前", "na": "不适用", "or": "或", "cancel": "取消", "pairs": "对", "pairs.count": "{n} 对", "pairs.count.one": "{n} 对",
  "unit.pairs": "对/秒", "unit.tokens": "token", "unit.shards": "排队", "tokens": "{n} 个 token", "tokens.one": "{n} 个 token",
  "unreachable": "连接已断开。", "unreachable.about": "每两秒重试一次；正在运行的任务不受影响。",
  "key": "需要 API 密钥", "key.about": "密钥只保存到本标签页关闭为止，也只发送给此网关。",
  "key.label": "API 密钥", "key.use": "使用密钥", "key.refused": "密钥被拒绝。", "key.invalid": "密钥只能由 ASCII 字母、数字和符号组成，不含空格。", "request_id": "请求 {id}",

  // 阻碍与对策
  "no_worker": "没有正在运行的 worker", "no_worker.about": "启动之前无法打分。请在能访问同一 Redis 的机器上运行：",
  "loading": "正在加载 {model}", "loading.about": "可能需要一两分钟。您在此准备的内容会保留，加载完成后即可运行。",
  "text_only": "{model} 只能读取文本", "text_only.use": "改用 {model}", "text_only.about": "处理图片请启动 Qwen3-VL 重排模型的 worker。",

  // 查询
  "instruction": "指令", "instruction.presets": "预设…", "instruction.hint": "说明怎样才算相关，用英文效果最好。",
  "profiles": "场景配置",
  "query": "查询", "query.itself": "查询", "query.kind": "查询类型", "query.text": "文本", "query.image": "图片", "query.both": "图片 + 文本", "query.video": "视频帧",
  "query.placeholder": "您要找什么？", "query.add.image": "浏览", "query.add.frames": "浏览",
  "query.first": "查询只能有一张图片；使用 {name}。",
  "query.drop.image": "拖入或粘贴图片", "query.drop.frames": "按顺序拖入各帧",
  "settings": "设置", "preset": "图片尺寸预设", "mode": "缩放方式", "mode.crop": "裁剪", "mode.fit": "完整",
  "mode.crop.about": "围绕中心裁剪到最接近的常用比例；裁去的部分在卡片上以阴影显示", "mode.fit.about": "保留整幅图片",
  "preset.general": "通用", "preset.product": "商品", "preset.art": "艺术", "preset.art-detail": "艺术细节", "preset.document": "文档", "preset.reference": "原作者尺寸",
  "threshold": "质量阈值", "threshold.none": "适用于质量低于此值的图片。",
  "threshold.reject": "{all} 张中有 {poor} 张将被拒绝。", "threshold.downweight": "{all} 张中有 {poor} 张将被降分。", "threshold.off": "{all} 张中有 {poor} 张低于阈值，不作处理。",
  "threshold.query.reject": "查询图片低于阈值：全部候选都得不到分数。", "threshold.query.downweight": "查询图片低于阈值：所有分数都会降低。", "threshold.query.off": "查询图片低于阈值，不作处理。",
  "threshold.unknown": "{n} 张尚未评估。", "action": "低于阈值时", "action.reject": "拒绝", "action.downweight": "降低分数", "action.off": "不处理",
  "temperature": "温度", "temperature.about": "大于 1 使分数靠拢，小于 1 使分数拉开；次序不变", "top_n": "结果数上限", "top_n.all": "全部",
  "explain": "分项得分", "explain.about": "视觉匹配、文本对齐与一致性；计算量最多为 5 倍。",

  // 候选
  "candidates": "候选", "candidates.count": "{n} 个候选", "candidates.count.one": "{n} 个候选", "candidates.clear": "全部移除",
  "candidates.reading": "还在读取 {n} 个", "candidates.video": "一段视频的各帧", "candidates.video.about": "拖到这里的图片按文件名排序，合为一个候选", "candidates.frames": "浏览各帧",
  "video": "视频", "video.frames": "帧", "video.fps": "每秒帧数", "video.fps.about": "视频帧率；不填则用模型作者的默认值",
  "frames.count": "{n} 帧", "frames.count.one": "{n} 帧", "frames.used": "模型使用 {all} 帧中的 {n} 帧", "remove.frame": "移除第 {n} 帧 {name}",
  "candidates.drop": "拖入或粘贴图片与文本，可成批添加", "candidates.browse": "浏览文件", "candidates.text": "输入文本",
  "candidates.lines": "每行一个候选", "candidates.lines.add": "添加", "candidate.text": "文本", "caption": "说明文字（可选）",
  "duplicate": "与 {n} 号重复", "remove.candidate": "移除 {name}", "replace.candidate": "替换 {name}", "remove.image": "移除 {name}",
  "image.input": "模型输入 {size}", "image.input.about": "按所选预设缩放后的尺寸与 token 数", "image.cropped": " · 裁去 {share}",
  "image.sent": "已上传 {share}", "image.assessing": "正在评估质量…", "image.unreadable": "无法读取的图片",
  "quality.short": "质量 {value}", "quality.poor": "低于阈值", "quality.is": "质量 {value}（满分 1）", "quality.below": "质量 {value} 低于阈值 {threshold}",
  "quality.hint": "请换一张更清晰、曝光更好的图片，或降低阈值。",
  "examples.lead": "还没有候选。试试示例：",

  // 运行
  "rerank": "重排", "steps": "进度", "stage.uploading": "上传", "stage.queued": "排队", "stage.scoring": "打分", "stage.done": "完成",
  "need.query": "请先填写查询。", "need.image": "请先添加查询图片。", "need.frames": "请先添加查询的视频帧。", "need.candidates": "请先添加候选。",
  "progress.uploading": "正在上传：{done} / {total}", "progress.sent": "已发送", "progress.next": "排在队首", "progress.queued": "排队中，前面还有 {n} 个分片", "progress.queued.one": "排队中，前面还有 {n} 个分片",
  "progress.scoring": "正在打分：已完成 {done} / {total} 对", "progress.ready": "可对 {n} 个候选排序", "progress.ready.one": "可对 {n} 个候选排序", "progress.done": "用时 {seconds}",
  "busy": "队列已满，{n} 秒后重试", "busy.one": "队列已满，{n} 秒后重试",

  // 结果
  "results": "结果", "results.count": "已排序 {n} 个", "results.none": "没有候选得到分数。", "view": "显示方式", "view.list": "列表", "view.grid": "网格",
  "run": "第 {n} 次", "run.shown": "显示的结果", "run.compare": "对比的结果", "run.compare.none": "对比…",
  "compare.other": "另一次中排第 {rank}", "compare.absent": "另一次中没有",
  "export": "导出", "copy.curl": "复制为 curl", "copy.python": "复制为 Python", "copy.line": "复制为任务输入行", "copy.line.about": "不含温度、图片选项与分项得分，这些按任务设定。", "export.uploads": "复制的请求引用已上传的图片，图片会过期：默认保留一天。", "export.json": "保存为 JSON", "export.csv": "保存为 CSV",
  "copied": "已复制",
  "rank.new": "新", "rank.same": "与上次名次相同", "rank.up": "比上次上升 {n} 位", "rank.down": "比上次下降 {n} 位",
  "rejected": "被拒绝", "rejected.count": "{n} 个被拒绝，无分数", "errors": "错误", "errors.count": "{n} 个失败，无分数",
  "anyway": "仍然打分", "anyway.done": "破例打分", "again": "重试",
  "overall": "总体", "overall.about": "排序的依据：模型对整体的打分",
  "visual_match": "视觉匹配", "visual_match.about": "候选图片与查询图片比较，没有则与查询文本比较。需多一次模型计算。", "visual_match.missing": "候选没有图片",
  "text_alignment": "文本对齐", "text_alignment.about": "文字与文字比较；没有文字的一侧用其图片。需多一次模型计算。", "text_alignment.missing": "两侧都没有文字",
  "cross_modal_consistency": "一致性", "cross_modal_consistency.about": "图片与文字的判断是否一致；也可能一致认为不相关。", "cross_modal_consistency.missing": "需要图片和文字",
  "part.not_requested": "请开启分项得分",
  "margin": "间隔", "detail.original": "原始尺寸", "detail.used": "使用尺寸", "detail.cropped": "裁去", "detail.tokens": "视觉 token", "detail.quality": "质量",
  "detail.plain_margin": "降分前的间隔", "detail.truncated": "截去的 token", "detail.time": "用时",
  "provenance.model": "模型", "provenance.revision": "版本号", "provenance.template": "模板", "provenance.dtype": "精度", "provenance.attention": "注意力", "provenance.device": "设备", "provenance.version": "软件版本", "provenance.pixels": "图片处理", "provenance.video": "视频处理",

  // 朗读
  "announce.candidates": "已添加 {n} 个候选。", "announce.candidates.one": "已添加 {n} 个候选。", "announce.images": "已向查询添加 {n} 张图片。", "announce.images.one": "已向查询添加图片。",
  "announce.video": "已添加 {n} 帧的视频。", "announce.video.one": "已添加 {n} 帧的视频。",
  "unreadable": "无法读取：{names}。", "unreadable.table": "表格与 JSON Lines 是任务的输入：请拖到“任务”页。", "unreadable.video": "不支持视频文件：请将各帧作为图片拖入。", "announce.done": "已排序 {scored} 个，用时 {seconds}。", "announce.anyway": "已打分并排入结果。", "announce.failed": "无法打分。",
  "announce.copied": "已复制。", "announce.job": "任务 {name}：{state}。",

  // 任务
  "state.all": "全部", "state.running": "运行中", "state.paused": "已暂停", "state.finishing": "收尾中", "state.done": "已完成", "state.cancelled": "已取消", "state.failed": "失败",
  "state.ready": "就绪", "state.loading": "加载中", "state.draining": "停止中",
  "job": "任务", "job.state": "状态", "job.progress": "进度", "job.rate": "吞吐量", "job.eta": "剩余时间", "job.created": "开始", "job.done": "对数", "job.took": "用时", "scored": "已打分",
  "job.errors.n": "{n} 个错误", "job.errors.n.one": "{n} 个错误", "job.bad_lines.n": "{n} 行无法读取", "job.bad_lines.n.one": "{n} 行无法读取", "job.bad_lines": "无法读取的行（计入错误）", "job.rejected.n": "{n} 个被拒绝", "jobs.none.state": "没有处于此状态的任务。", "jobs.none": "还没有任务。在此新建，或在终端运行：",
  "job.new": "新建任务", "job.start": "开始任务", "job.input": "输入", "job.file": "文件：JSON Lines 或 CSV（可用 gzip 压缩），或 Parquet", "job.uri": "worker 可读取的 URI", "job.name": "名称",
  "job.output": "输出 URI（默认由网关保存）", "job.profile": "场景配置", "job.profile.none": "无", "job.options": "选项", "job.need.input": "请选择文件或填写 URI，只选其一。",
  "job.queries": "图库的查询，每行一个", "job.queries.about": "填写查询后，输入即为图库：每个查询与每张图片逐一配对。",
  "job.pause": "暂停", "job.resume": "继续", "job.cancel": "取消", "job.retry": "重试失败项", "job.results": "结果", "job.partial": "目前的结果",
  "job.format": "图库结果格式", "format.jsonl": "JSON Lines", "format.parquet": "Parquet",
  "downloads": "下载", "downloads.more": "另有 {n} 个分片，清单中列有全部名称", "downloads.rows": "{n} 行", "downloads.rows.one": "{n} 行", "downloads.results": "每行输入及其排序",
  "downloads.manifest": "计数、选项、来源、分片", "downloads.errors": "没有分数的条目及原因", "downloads.ranking": "每个查询的最佳匹配", "downloads.jsonl": "JSON Lines", "downloads.parquet": "Parquet",
  "errors.list": "无分数：{n}", "errors.line": "第 {n} 行", "errors.first": "仅列前 {n} 个，全部见结果。", "errors.missing": "未能读取错误列表。",

  // 图表与集群
  "chart.empty": "暂无数据", "chart.rate": "吞吐量", "chart.rate.job": "自打开此页起", "chart.queue": "队列深度", "chart.queue.about": "等待 worker 的分片", "chart.scores": "分数分布", "chart.scores.summary": "平均 {mean} · {above} 高于 0.9 · {below} 低于 0.1",
  "chart.batch": "批大小", "chart.batch.about": "每批 token 上限；圆点为每次调整及其原因", "chart.batch.start": "启动时测得",
  "chart.latency": "各批耗时", "chart.latency.about": "每批时间的去向", "chart.latency.packs": "最近 {n} 批", "chart.latency.packs.one": "最近一批",
  "chart.latency.earlier": "较早", "chart.latency.now": "现在", "stage.preparing_s": "设备空闲", "stage.waiting_s": "等待", "stage.forward_s": "计算",
  "fleet.workers": "Worker", "fleet.devices": "设备", "fleet.rate": "吞吐量", "fleet.queued": "排队分片",
  "worker.rate": "吞吐量", "worker.batch": "批大小", "worker.reason": "原因", "worker.storage": "等待存储", "worker.precision": "精度", "worker.latency": "每批耗时", "worker.steps": "各步平均",
  "step.load": "装载", "step.fetch": "获取", "step.decode": "解码", "step.resize": "缩放", "step.quality": "质量", "step.tokenize": "分词", "step.forward": "计算", "step.store": "存储",
  "worker.shards": "处理中的分片",
  "worker.memory": "内存", "worker.ooms": "内存不足次数", "worker.busy": "计算", "worker.preparing": "等待输入",
  "queues": "队列", "queues.none": "队列为空。", "queue.priority": "优先级", "queue.depth": "排队分片", "priority.interactive": "交互", "priority.normal": "普通", "priority.bulk": "批量",
};
