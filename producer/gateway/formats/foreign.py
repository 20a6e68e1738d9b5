"""Names of fields that other servers of rerankers, their clients and the gateways in between know.

None of them is ever taken for a misspelling of ours, however alike: those that have a meaning here
are names of our own fields too (`fields.py`), all others are ignored with a warning.
"""

from __future__ import annotations

from collections.abc import Mapping

FOREIGN: Mapping[str, frozenset[str]] = {
    server: frozenset(names.split())
    for server, names in {
        "vLLM": "activation add_generation_prompt add_special_tokens cache_salt chat_template "
        "chat_template_kwargs continue_final_message data_1 data_2 dimensions documents "
        "embed_dtype encoding_format endianness images input instruction items "
        "kv_transfer_params max_len max_model_len max_tokens_per_doc max_tokens_per_query "
        "media_io_kwargs messages mm_processor_kwargs model normalize padding pooling_params "
        "priority queries query request_id return_documents return_token_ids softmax task "
        "text_1 text_2 top_n truncate_prompt_tokens truncation_side use_activation user",
        "text-embeddings-inference": "inputs is_truncated mode normalize prompt_name query "
        "raw_score raw_scores return_text return_texts texts truncate truncate_dim "
        "truncation_direction",
        "Cohere": "client_name max_chunks_per_doc max_tokens_per_doc model priority query "
        "rank_fields relevant_spans return_documents top_n",
        "Jina": "embedding_type images late_chunking max_doc_length max_query_length "
        "normalized query return_documents return_embeddings task top_n truncate truncation",
        "Voyage": "documents input_type output_dimension output_dtype query return_documents "
        "top_k truncation",
        "infinity": "dimensions embedding_format encoding_format modality query raw_scores "
        "return_documents top_n user",
        "sentence-transformers": "activation_fct activation_fn apply_softmax batch_size "
        "convert_to_numpy convert_to_tensor max_length num_workers pairs passages prompt "
        "prompt_name prompts query return_documents sentences show_progress_bar top_k",
        "SGLang": "bootstrap_room custom_logit_processor image_data input_ids instruct "
        "log_metrics lora_path modalities priority query rid sampling_params text top_n user "
        "video_data",
        "llama.cpp": "cache_prompt content documents embd_normalize id_slot input query "
        "return_text texts timings_per_token top_n",
        "LocalAI": "backend documents language model_base_name query threads top_n",
        "NVIDIA NIM": "input_type modality passages query truncate",
        "Amazon Bedrock": "accept additionalModelRequestFields api_version body contentType "
        "documents modelArn modelConfiguration modelId nextToken numberOfResults queries query "
        "rerankingConfiguration sources top_n",
        "Azure AI": "documents extra_params model_extras model_version query queryLanguage "
        "queryType return_documents search select semanticConfiguration top top_n",
        "Oracle": "compartmentId documents input isEcho maxChunksPerDocument maxTokensPerDocument "
        "max_tokens_per_document servingMode topN",
        "Vertex AI": "ignoreRecordDetailsInResponse instances model parameters query records "
        "topN top_n userLabels user_labels",
        "DashScope": "input instruct output parameters query return_documents top_n workspace",
        "SiliconFlow": "instruction max_chunks_per_doc overlap_tokens query return_documents top_n",
        "Xinference": "kwargs max_chunks_per_doc model_uid query return_documents return_len top_n",
        "Pinecone": "documents parameters query rank_fields return_documents top_n",
        "mixedbread": "input instruction query rank_fields return_input rewrite_query top_k",
        "Elasticsearch": "inference_id input input_type query rank_window_size "
        "return_documents service_settings task_settings timeout top_n",
        "watsonx": "inputs model_id parameters project_id query return_options space_id "
        "truncate_input_tokens",
        "Hugging Face": "inputs options parameters source_sentence use_cache wait_for_model",
        "LiteLLM": "api_base api_key api_version base_url cache caching custom_llm_provider "
        "drop_params extra_body extra_headers extra_query fallbacks guardrails litellm_metadata "
        "max_chunks_per_doc max_retries max_tokens_per_doc metadata mock_response num_retries "
        "rank_fields return_documents tags timeout user",
        "Dify, LangChain, LlamaIndex": "callbacks docs document_ids documents max_length "
        "min_score model_kwargs model_name query score_threshold texts threshold timeout top_k "
        "top_n truncation_direction user verbose",
        "OpenAI": "best_of echo frequency_penalty logit_bias logprobs max_completion_tokens "
        "max_output_tokens max_tokens metadata modalities n parallel_tool_calls "
        "presence_penalty prompt_cache_key reasoning_effort response_format safety_identifier "
        "seed service_tier stop store stream stream_options suffix temperature tool_choice "
        "tools top_logprobs top_p user",
    }.items()
}

FOREIGN_NAMES = frozenset().union(*FOREIGN.values())
"""All of them."""
