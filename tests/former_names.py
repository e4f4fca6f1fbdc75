"""What powerjax's modules had before they were moved into rooms: a frozen table.

Made once from commit be549f7 and never added to: it says which import paths and names of that
version must go on working. A line names a module below `powerjax` and its public functions and
classes (for a package, its `__all__`); indented lines continue the one before.
"""

_TABLE = """
capacity: Layout Training best layouts room training
comparison: Claim Line as_csv cells claim_cells departures describe laws lines notes pattern
    standard_errors write
distill: Corpus Example Settings Stopped Trained load num_batches save_adapter save_merged train
distill.data: Corpus Example bucket epoch_batches grid load make_batch num_batches
distill.export: on_main save_adapter save_merged
distill.loop: Stopped Trained check identity last_step train
distill.loss: sum_nll
distill.metrics: Log
distill.run_folder: check_free disk_errors locked
distill.step: Batch Metrics Settings State abstract_state batch_sharding init_state
    learning_rate make_step optimizer state_shardings
estimates: Estimate Estimator Table best best_of_each paired_difference pass_at_k
evaluate: Priced Result Summary best_of rows summarize vote_of within
fields: Kind check
grading: grade_records load rescore
hardware: Chip Hardware parse
identity: adapter_label differences labels law_hash shown stated
json_file: damaged is_positive number read switch whole_number
json_lines: Float Malformed document end_of_whole_lines parse read_bytes rows
launch: collect define_dtype dtype grid model_name problems run speed
mesh: Place barrier check_id find is_main is_tpu_pod make_mesh meet num_bytes_per_device
    param_sharding param_spec start take_devices
models: LM ModelConfig RopeConfig load
models.attention: attention
models.cache: KVCache bytes_per_token cache_sharding copy_row grow head_width init_cache
    restore_slots save_slots write_layer write_prompts
models.causal: causal_attention
models.checkpoint: find_folder fit load_params model_config random_params read_config save
models.config: ModelConfig RopeConfig
models.decoder: Block CausalLM Embedding Linear MLP RMSNorm SelfAttention Unembedding by_row
    fork gather precision
models.language_model: LM load
models.layout: Tensor tensors
models.lora: Adapter Dropout LoraConfig Mask check collection init layer_shardings low_rank
    merge shapes shardings unmerge
models.peft: load save
models.peft_settings: by_pattern is_target read
models.prompts: check_text encode encode_all ids listed separate style
models.rope: cos_sin inverse_frequencies rotate
models.tensor_file: StoredTensor equal read_header read_tensor stored_dtype
models.weight_files: grouped read_headers
page: examples write_report
paper: Row learning_rate model_of row
pipeline: Row asked kept losses measure note_prompts prompt_choice student with_prompts
planning: Memory Probe Stage describe duration memory probe_sampling probe_training
plots: acceptance acceptance_by_stage accuracy_against_cost accuracy_against_self_reward lengths
    mixing
progress: progress_bar redraws
qualitative: Token colour figure page pieces tokens
records: RecordFile chain_name command encode git_commit is_cut_short note_prompts numbered
    open_run read read_manifest record_id rows sampler_label software versions whole_rows
rendezvous: meet split_address
report: cells header interval law markdown nats percent side_by_side side_by_side_markdown
    spread verdict
reward_figures: gain_against_covariance sweep
rewards: Interval Probed Samples alphas integral probe samples synthetic
sample: ChainsFailed Completion Completions as_record best_of_n draws mh power power_inf
    standard temperature weights
sample.completions: Completion Completions as_record
sample.draws: chain_id chain_keys draw uniform
sample.engine: bytes_per_slot count_fitting count_prefix_rows generate pick_num_slots
    prefill_shape slots_for
sample.failures: ChainsFailed remedy
sample.inputs: names positive power prompt_tokens seed whole whole_or_none
sample.memory: free_bytes host_free_bytes
sample.mh: Chain Draws Info Sequence Settings advance init next_move settings working_tokens
sample.placement: Home devices home module num_rows rows
sample.samplers: best_of_n power power_inf standard temperature
sample.slots: Queue Results Slots Tally init run write_position
sample.stats: Failed Finished Request Stats
sample.weights: TokenDraw draw_token inverse_cdf is_monotone
sample.workers: count_workers generate
scalars: in_float32 key_seed listed real real_from shown whole whole_from
setups: Setup record_files rows
shards: Gathered Share elsewhere gather parts taking_turns write
stages: beside keep read
tables: by_stage costs csv disagreements latex main num_unsafe plain rules several_boxes
tasks: CHAT Graded Problem RAW Task arithmetic registry without_text
tasks.answers: elements literal simplified
tasks.arithmetic: apply completion grade load problems trace
tasks.base: Graded Problem Task chat_word grade_each is_chat_model own_name prompt_hash
    without_text
tasks.boxes: is_placeholder last_boxed of_last_sentence
tasks.checkers: Checkers pool serve
tasks.code: extract grade grade_all humaneval_problem load_humaneval load_mbpp mbpp_problem
    program wording
tasks.confined:
tasks.confined.harness: Lost ProgramError Remote confine main program receive send test tester
tasks.confined.plain: Opaque decode encode
tasks.equivalence: by_math_verify equivalent same_text
tasks.expressions: parse
tasks.extraction: Piece block body defines fitted lifted pieces whole
tasks.gpqa: boxed_letter grade grade_all last_letter load_diamond load_rest prompt
tasks.gsm8k: extract grade load
tasks.isolation: Process ending numpy options reason sandboxed
tasks.jsonl: grade load
tasks.math: grade grade_all load_math500 load_math_train prompt
tasks.notation: groups half_width plain_fractions unstyled unwrapped
tasks.numbers: decimal fractions_of_periods last value with_commas written
tasks.registry: get
tasks.sandbox: Limits Program Verdict require run run_all
tasks.seccomp: program
tasks.sources: Source checked find read rows
tasks.statements: Open Statement after_head inside_strings split
text: Rendered encode format_prompt has_chat_template load_tokenizer recorded_prompt render_chat
    stop_ids
theory: TabularModel laws propositions sharpening sis zipf
theory.bridge: Curve distillation_curves empirical_laws example_model find lessons mean_length
    measure rl_curves run_chains sampling_curves string_index table
theory.bridge_figure: draw
theory.checks: Check Prop3Cell cor1 definitions ess kl_forms other_policy prop1 prop2 prop3
    prop3_cells prop4 prop5 random_models
theory.drawing: Drawing name_axes panels save
theory.exact: TabularModel check_size count_completions sum_along
theory.figures: convergence distillation_bound log_odds proposals reversals setting spread
theory.laws: check_alpha check_log_law draw draw_rows kl log_of log_power_sum log_sum_exp mean
    modes normalise power renyi_entropy squared_hellinger total_variation
theory.learning: Paths distil expected_distance gradient_ascent paths policy_log_law reinforce
    row_offsets stacked_logits
theory.propositions: PairSides Sides cor1_optimum eq14_reverse_kl eq15_forward_kl
    eq16_stationary expected_reward_gradient log_incremental_weights next_token_conditionals
    prefix_totals prop1_log_odds prop2_minimiser prop2_moments prop2_product prop4_affine
    prop4_derivative prop5_objective regularised_objective regularised_optimum
theory.sharpening: PolicyFits is_sharpened maximum_likelihood mode_mass policy_class prop3_fits
    unsharpened
theory.sis: ess_error_scale ess_fraction monte_carlo_ess resampled_law squared_cv
theory.transitions: Kernel Strings distance_to kernel laws_of_chain strings
theory.zipf: model next_log_law proposals suffix_exponents suffix_log_laws
"""


def _read(table: str) -> dict[str, list[str]]:
    """Returns old module -> the names that it had."""
    rows = table.strip().replace("\n    ", " ").splitlines()
    return {module: names.split() for module, _, names in (row.partition(":") for row in rows)}


NAMES = _read(_TABLE)
