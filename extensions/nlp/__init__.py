"""Tokens: the three contrasts on the logits of language models, and teachers stored as top k."""

from mcld_core.extensions.nlp.columns import TeacherCollator as TeacherCollator
from mcld_core.extensions.nlp.columns import read_distillkit as read_distillkit
from mcld_core.extensions.nlp.columns import teacher_columns as teacher_columns
from mcld_core.extensions.nlp.kd import LastLayer as LastLayer
from mcld_core.extensions.nlp.kd import linear_token_kd_loss as linear_token_kd_loss
from mcld_core.extensions.nlp.kd import sampled_token_kd_loss as sampled_token_kd_loss
from mcld_core.extensions.nlp.kd import token_kd_loss as token_kd_loss
from mcld_core.extensions.nlp.losses import token_mcld_loss as token_mcld_loss
from mcld_core.extensions.nlp.served import read_prompt_logprobs as read_prompt_logprobs
from mcld_core.extensions.nlp.served import read_token_logprobs as read_token_logprobs
from mcld_core.extensions.nlp.served import read_top_logprobs as read_top_logprobs
from mcld_core.extensions.nlp.stored import TopKLogits as TopKLogits
from mcld_core.extensions.nlp.stored import sample_teacher as sample_teacher
from mcld_core.extensions.nlp.vocabulary import VocabularyAlignment as VocabularyAlignment
from mcld_core.extensions.nlp.vocabulary import align_vocabulary as align_vocabulary
