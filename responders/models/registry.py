"""The responders that can be trained, by name."""

from __future__ import annotations

RESPONDERS = {
    "item_ctr": "responders.models.counting:ItemCTR",
    "position_ctr": "responders.models.counting:PositionCTR",
    "pbm": "responders.models.counting:PBM",
    "cascade": "responders.models.chain:Cascade",
    "dcm": "responders.models.chain:DCM",
    "ubm": "responders.models.chain:UBM",
    "dbn": "responders.models.chain:DBN",
    "ccm": "responders.models.chain:CCM",
    "mf": "responders.models.linear:MF",
    "logistic_regression": "responders.models.linear:LogisticRegression",
    "slate_gru": "responders.models.recurrent:SlateGRU",
    "session_gru": "responders.models.recurrent:SessionGRU",
    "hierarchical_gru": "responders.models.recurrent:HierarchicalGRU",
    "slate_transformer": "responders.models.slate_attention:SlateTransformer",
    "session_transformer": "responders.models.session_attention:SessionTransformer",
    "transformer_gru": "responders.models.slate_attention:TransformerGRU",
    "scot": "responders.models.scot:SCOT",
    "min_gru": "responders.models.slate_trunks:MinGRU",
    "hstu": "responders.models.slate_trunks:HSTU",
    "linear_attention": "responders.models.slate_trunks:LinearAttention",
    "adv_ncm": "responders.models.adversarial:AdvNCM",
    "rancm": "responders.models.random_access:RANCM",
}
"""What `recsim train` can train and a checkpoint can hold."""
