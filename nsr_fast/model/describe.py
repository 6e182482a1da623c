"""config.json of a checkpoint as a plain mapping; no weight is read."""

from nsr_fast.errors import InputError


def model_config(model: str) -> dict:
    """Of a local directory or a hub name; what the family leaves open is filled in."""
    from transformers import AutoConfig

    from nsr_fast.model.layout import check_family

    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0][:300]
        raise InputError(f"model: {model}: cannot read its config.json: {first_line}") from None
    check_family(config.model_type)
    return config.to_dict()
