"""Language models: which positions are compared, how text becomes examples, where their logits come from.

rows = limbeck.tokenise(records, tokenizer)     # text, prompt and completion, or messages; the teacher's own prompt
limbeck.DistillTrainer(student, teacher, objective, config, train_dataset=rows)
"""
