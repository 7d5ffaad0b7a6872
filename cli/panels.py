"""Where `--help` shows each flag: commands have up to forty, so they stand in groups."""

from __future__ import annotations

MODEL, DATA, ROLLOUT, OPTIMISATION, SAVING, MACHINE = "Model", "Data", "Rollout", "Optimisation", "Saving", "Machine"

_FLAGS = {
    MODEL: "size model checkpoint adapter model_b before reward_model lora_rank lora_scale lora_layers lora_keys "
    "lora_dropout quantize unfreeze_rank template_args chat_template stage to gguf_type group_size merge pooling",
    DATA: "data data_dir prompts prompt_field answer_field system sources language_sources code_sources max_characters "
    "max_code_characters dialogues bfcl pairs dialogue_share sequence_length max_prompt_tokens max_length "
    "max_prompts suite text eval_tokens ratings db overlap repeats format",
    ROLLOUT: "prompt tools yes max_rounds max_tokens max_thinking_tokens temp samples best_of reward "
    "responses_per_prompt no_pass_rate unsafe_exec missing_end_penalty rollout_slots",
    OPTIMISATION: "num_epochs steps_per_epoch batch_size mini_batch_size micro_batch_size micro_batch_tokens "
    "gradient_accumulation_steps learning_rate value_learning_rate unfreeze_learning_rate unfreeze_epochs "
    "unfreeze_batch_size warmup_steps weight_decay max_grad_norm ppo_epochs clip value_clip vf_coef entropy_coef "
    "kl_coef kl_target kl_limit kl_in_loss gamma lam whiten_rewards scale_rewards loss_type loss margin beta "
    "label_smoothing optimizer_dtype seed",
    SAVING: "out export stats resume restart save_every eval_every eval_batches root config_file print_config revision "
    "push",
    MACHINE: "backend device dtype gradient_checkpointing allow_swap host port no_open allowed_origins",
}
_PANELS = {name: panel for panel, names in _FLAGS.items() for name in names.split()}


def order(name: str) -> int:
    """Where a flag stands: its panel's place."""
    return list(_FLAGS).index(_PANELS[name]) if name in _PANELS else len(_FLAGS)


def panel(name: str) -> str | None:
    """The group of a flag, by its field's name; None for a flag that belongs to none."""
    return _PANELS.get(name)
