# A sentence stands in one line, as it is said.
# ruff: noqa: E501
"""What is said of what cannot be: a table of inputs, and of the sentence for each.

`$` begins a command line (two blanks part several that differ in a flag alone, `{flag}`
and `{value}` below), `>>>` a call; the sentence stands under those that it is for,
`{methods}` for the names in the registry, and `…` at its end for the rest of it.
"""

import json
import os
import re
import shlex
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

import clidmu_tf as clidmu
from clidmu_tf.methods import METHODS
from clidmu_tf.runs import training
from clidmu_tf.runs.config import Config
from command import assert_refused

layers = keras.layers

BEFORE_TENSORFLOW = r"""
$ --seed=-1  --seed=4294967296
    {flag} must be from 0 to 4294967295; received {value}.
$ --seed=1.5  --seed=many  --prepare_size=1.5  --prepare_size=many  --image_size=1.5
$ --image_size=many  --resize_size=1.5  --resize_size=many  --train_examples=1.5
$ --train_examples=many  --num_labels=1.5  --num_labels=many  --epochs=1.5
$ --epochs=many  --steps_per_epoch=1.5  --steps_per_epoch=many  --batch_size=1.5
$ --batch_size=many  --meta_batch_size=1.5  --meta_batch_size=many
$ --meta_examples=1.5  --meta_examples=many  --lr_period=1.5  --lr_period=many
$ --checkpoint_every=1.5  --checkpoint_every=many  --snapshots=1.5  --snapshots=many
$ --trials=1.5  --trials=many  --epochs=  --epochs=1e3  --batch_size=inf  --seed=nan
$ --epochs=0x  --epochs=1_000_
    {flag} takes a whole number; received {value!r}.
$ --prepare_size=-1  --image_size=-1  --resize_size=-1  --train_examples=-1
$ --num_labels=-1  --steps_per_epoch=-1  --meta_batch_size=-1  --lr_period=-1
$ --checkpoint_every=-1  --learning_rate=-0.1  --learning_rate=nan
$ --weight_decay=-0.1  --weight_decay=nan  --lr_min=-0.1  --lr_min=nan
$ --meta_learning_rate=-0.1  --meta_learning_rate=nan  --meta_weight_decay=-0.1
$ --meta_weight_decay=nan
    {flag} must be 0 or more; received {value}.
$ --epochs=-1  --batch_size=-1  --snapshots=-1  --trials=-1  --epochs=0
$ --batch_size=0  --snapshots=0  --trials=0
    {flag} must be 1 or more; received {value}.
$ --meta_examples=-1  --meta_examples=1  --meta_examples=0
    {flag} must be 2 or more; received {value}.
$ --holdout=-0.1  --holdout=inf  --holdout=nan  --noisy_holdout=-0.1
$ --noisy_holdout=inf  --noisy_holdout=nan  --noisy_holdout=0.95
    {flag} must be from 0 to 0.9; received {value}.
$ --holdout=half  --noise_rate=half  --noisy_holdout=half  --learning_rate=half
$ --momentum=half  --weight_decay=half  --lr_min=half  --meta_learning_rate=half
$ --meta_weight_decay=half  --learning_rate=  --learning_rate=1,5
    {flag} takes a number; received {value!r}.
$ --noise_rate=-0.1  --noise_rate=inf  --noise_rate=nan  --momentum=-0.1
$ --momentum=inf  --momentum=nan  --noise_rate=1.5
    {flag} must be from 0 to 1; received {value}.
$ --learning_rate=inf  --weight_decay=inf  --lr_min=inf  --meta_learning_rate=inf
$ --meta_weight_decay=inf
    {flag} must be finite; received {value}.
$ --holdout=1
    {flag} must be from 0 to 0.9; …
$ --momentum=2
    {flag} must be from 0 to 1; …
$ --task=magic  --task=  --task=Train  --task=training
    {flag} must be one of prepare, train, tune, evaluate, audit, export; received {value!r}.
$ --on_bad_image=magic  --on_bad_image=
    {flag} must be one of refuse, skip; received {value!r}.
$ --optimizer=magic  --optimizer=  --optimizer=SGD
    {flag} must be one of sgd, adam; received {value!r}.
$ --lr_schedule=magic  --lr_schedule=
    {flag} must be one of constant, cosine, cosine_restarts; received {value!r}.
$ --meta_optimizer=magic  --meta_optimizer=
    {flag} must be one of adam, sgd; received {value!r}.
$ --strategy=magic  --strategy=
    {flag} must be one of auto, none, mirrored, multi_worker; received {value!r}.
$ --batch_scope=magic  --batch_scope=
    {flag} must be one of global, replica; received {value!r}.
$ --precision=magic  --precision=  --precision=float16
    {flag} must be one of float32, bfloat16; received {value!r}.
$ --jit=magic  --jit=  --jit=true
    {flag} must be one of auto, on, off; received {value!r}.
$ --resume=if  --resume=2  --resume=
    {flag} takes true or false; received {value!r}.
$ --workdir=a\nb  --data_dir=a\nb  --manual_dir=a\nb  --init_weights=a\nb
$ --beside=a\nb  --dataset=a\nb  --label_column=a\nb  --clean_label_column=a\nb
$ --text_column=a\nb  --feature_columns=a\nb  --image_column=a\nb  --label_key=a\nb
$ --train_split=a\nb  --test_split=a\nb  --augment=a\nb  --strong_augment=a\nb
$ --tune_space=a\nb  --backbone=a\nb  --workdir=a\rb  --workdir=a\n
    {flag} must be one line, as config.cfg keeps it; …
$ --noresume=false
    --noresume=false does not take an argument (--helpshort lists all flags).
$ --lr_schedule=cosine --lr_min=0.03 --learning_rate=0.02
    --lr_min=0.03 is above --learning_rate=0.02, which --lr_schedule lowers: lower --lr_min.
$ --lr_schedule=cosine_restarts --lr_min=1
    --lr_min=1.0 is above --learning_rate=0.02, which --lr_schedule lowers: lower --lr_min.
$ epochs=3
    Not understood: 'epochs=3'; write every setting as --name=value, also in a flagfile.
$ train
    Not understood: 'train'; write every setting as --name=value, also in a flagfile.
$ --epochs=3 batch_size=10
$ --flagfile=words.cfg
    Not understood: 'batch_size=10'; write every setting as --name=value, also in a flagfile.
$ --noise=symmetric noise_rate=0.5
    Not understood: 'noise_rate=0.5'; write every setting as --name=value, also in a flagfile.
$ --epochs 3 4
    Not understood: '4'; write every setting as --name=value, also in a flagfile.
$ --seed
$ --epochs=1 --seed
    Missing value for flag --seed (--helpshort lists all flags).
$ --workdir
    Missing value for flag --workdir (--helpshort lists all flags).
$ --flagfile=gone.cfg
    --flagfile=gone.cfg cannot be read (No such file or directory): name a file with a setting a line, as …
$ --flagfile=binary.cfg
    A --flagfile holds no text ('utf-8' codec can't decode byte 0xff in position 0: …
$ --flagfile=.
    --flagfile=. cannot be read (Is a directory): …
$ --flagfile=bad.cfg
    --epochs must be 1 or more; received 0.
$ --flagfile=nested.cfg
    --flagfile=gone.cfg cannot be read (No such file or directory): …
$ --flagfile=dashless.cfg
    Not understood: 'epochs 3'; write every setting as --name=value, also in a flagfile.
$ --flagfile
    --flagfile with no argument takes a value; received ''.
$ TF_CONFIG='' --strategy=multi_worker
$ TF_CONFIG='{' --strategy=multi_worker
$ TF_CONFIG='[]' --strategy=multi_worker
$ TF_CONFIG='1' --strategy=multi_worker
$ TF_CONFIG='null' --strategy=multi_worker
$ TF_CONFIG='{"cluster":{}}' --strategy=multi_worker
$ TF_CONFIG='{"cluster":{"worker":["a:1"]}}' --strategy=multi_worker
$ TF_CONFIG='{"cluster":{"worker":1},"task":{"index":0}}' --strategy=multi_worker
$ TF_CONFIG='{"cluster":{"worker":["a"]},"task":{"index":0}}' --strategy=multi_worker
$ TF_CONFIG='{"cluster":{"worker":["a:b"]},"task":{"index":0}}' --strategy=multi_worker
$ TF_CONFIG='{"cluster":{"worker":["a:1"]},"task":{"index":"x"}}' --strategy=multi_worker
    --strategy=multi_worker needs TF_CONFIG, such as …
$ TF_CONFIG='{"cluster":{"worker":["a:1"]},"task":{"index":1}}' --strategy=multi_worker
    TF_CONFIG's task index 1 is none of its 1 workers.
$ TF_CONFIG='{"cluster":{"worker":["a:1"]},"task":{"index":-1}}' --strategy=multi_worker
    TF_CONFIG's task index -1 is none of its 1 workers.
$ TF_CONFIG='{"cluster":{"worker":["a:1"], "ps":["b:1"]},"task":{"index":0}}' --strategy=multi_worker
    TF_CONFIG names parameter servers ('ps'), which Keras 3 does not support: name workers only.
$ TF_CONFIG='{"cluster":{"worker":["a:1"], "chief":["b:1"]},"task":{"index":0}}' --strategy=multi_worker
    TF_CONFIG names chief besides the workers: name workers only; the first of them writes the files.
$ KERASTUNER_ORACLE_IP=127.0.0.1 --task=tune
    KERASTUNER_ORACLE_IP is set and KERASTUNER_ORACLE_PORT is not: set both, or none.
$ KERASTUNER_ORACLE_IP=127.0.0.1 KERASTUNER_ORACLE_PORT=80 --task=tune
    KERASTUNER_ORACLE_IP is set and KERASTUNER_TUNER_ID is not: set both, or none.
$ KERASTUNER_ORACLE_IP=127.0.0.1 KERASTUNER_ORACLE_PORT=abc KERASTUNER_TUNER_ID=tuner-1 --task=tune
    KERASTUNER_ORACLE_PORT must be a whole number from 1 to 65535; received 'abc'.
$ KERASTUNER_ORACLE_IP=127.0.0.1 KERASTUNER_ORACLE_PORT=0 KERASTUNER_TUNER_ID=tuner-1 --task=tune
    KERASTUNER_ORACLE_PORT must be a whole number from 1 to 65535; received '0'.
$ KERASTUNER_ORACLE_IP=127.0.0.1 KERASTUNER_ORACLE_PORT=65536 KERASTUNER_TUNER_ID=tuner-1 --task=tune
    KERASTUNER_ORACLE_PORT must be a whole number from 1 to 65535; received '65536'.
$ KERASTUNER_ORACLE_IP=127.0.0.1 KERASTUNER_ORACLE_PORT=-1 KERASTUNER_TUNER_ID=tuner-1 --task=tune
    KERASTUNER_ORACLE_PORT must be a whole number from 1 to 65535; received '-1'.
$ KERASTUNER_ORACLE_IP=127.0.0.1 KERASTUNER_ORACLE_PORT= KERASTUNER_TUNER_ID=tuner-1 --task=tune
    KERASTUNER_ORACLE_PORT must be a whole number from 1 to 65535; received ''.
"""

IN_THE_PACKAGE = r"""
$ -
    Not understood: '-'; write every setting as --name=value, also in a flagfile.
$ -- --epochs=3
    Not understood: '--epochs=3'; write every setting as --name=value, also in a flagfile.
$ --learnin_rate=0.1
    Unknown command line flag 'learnin_rate'. Did you mean: learning_rate? (--helpshort lists all flags).
$ --nosuch
    Unknown command line flag 'nosuch' (--helpshort lists all flags).
$ --flagfile=unknown.cfg
    Unknown command line flag 'epoch'. Did you mean: epochs? (--helpshort lists all flags).
$ --noise=magic --noise_rate=0.5
    --noise must be one of none, symmetric, asymmetric, flip2, hierarchical, instance; received 'magic'.
$ --noise=symmetric
    --noise=symmetric and --noise_rate=0.0 do not go together: give a noise and a rate above 0, or neither.
$ --noise=none --noise_rate=0.4
    --noise=none and --noise_rate=0.4 do not go together: give a noise and a rate above 0, or neither.
$ --noise_rate=0.2
    --noise=none and --noise_rate=0.2 do not go together: give a noise and a rate above 0, or neither.
$ --method=magic
$ --method=
$ --method=CLIDMU
    --method must be one of {methods}; …
$ --tuner=grid --task=tune
    --tuner must be one of random, bayesian, hyperband; received 'grid'.
$ --objective=accuracy --task=tune
    --objective must be one of noisy_accuracy, val_clid_ref, clean_accuracy; received 'accuracy'.
$ --temperature=0
    --temperature must be above 0; received 0.0.
$ --temperature=-1
    --temperature must be above 0; received -1.0.
$ --temperature=warm
    --temperature takes a number; received 'warm'.
$ --meta_objective=magic
    --meta_objective must be one of auto, noisy_mae, clid, cross_entropy, mae; received 'magic'.
$ --weight_net=magic
    --weight_net must be one of wnet, vri; received 'magic'.
$ --virtual_scope=none
    --virtual_scope must be one of auto, all, last_block, head; received 'none'.
$ --prior_penalty=-1
    --prior_penalty must be 0 or more; received -1.0.
$ --meta_interval=0
    --meta_interval must be 1 or more; received 0.
$ --meta_interval=0.5
    --meta_interval takes a whole number; received '0.5'.
$ --warmup_epochs=-1
    --warmup_epochs must be 0 or more; received -1.
$ --class_balance=perhaps
    --class_balance takes true or false; received 'perhaps'.
$ --inner=magic
    --inner must be one of none, co_teaching, dividemix, fixmatch, flexmatch, uda; received 'magic'.
$ --inner=elr
    --inner must be one of none, co_teaching, dividemix, fixmatch, flexmatch, uda; received 'elr'.
$ --backbone=no_such
    Unknown backbone 'no_such'; ours are digits_cnn, digits_cnn_plain, preact_resnet18, preact_resnet34, …
$ --backbone=resnet20 --dataset=csv
$ --dataset=csv
    --data_dir= is not there: name a CSV file, or a folder with train.csv and test.csv.
$ --dataset=no_such
    --dataset=no_such is unknown: use digits, folder, csv, or the name of a prepared TFDS data set such as cifar10.
$ --dataset=../x
    --dataset='../x' is no name of a data set.
$ --dataset=cifar10
    --dataset=cifar10 is not prepared in the default data_dir: run `tfds build cifar10` on a machine with network …
$ --dataset=webvision/mini
    --dataset=webvision/mini is not prepared in the default data_dir: run `python train.py --task=prepare …
$ --dataset=webvision/mini:9.9.9
$ --task=prepare --dataset=webvision/mini:9.9.9 --manual_dir=.
    --dataset=webvision/mini:9.9.9 names version 9.9.9, and there is 1.0.0 alone: write webvision/mini.
$ --dataset=webvision/maxi
$ --task=prepare --dataset=webvision/maxi
    --dataset=webvision/maxi is unknown: use webvision/mini, webvision/google, webvision/full.
$ --task=prepare --dataset=digits
    --task=prepare knows animal10n, clothing1m, food101n, webvision; received --dataset=digits: prepare TFDS's …
$ --task=prepare --dataset=webvision/mini
    --manual_dir= is no folder: name the one that holds webvision. The folder holds info/synsets.txt, …
$ --task=prepare --dataset=cifar10
    --task=prepare knows animal10n, clothing1m, food101n, webvision; received --dataset=cifar10: prepare TFDS's …
$ --dataset=folder
    --data_dir= is no folder: name one that has a sub-folder for each class.
$ --dataset=folder --data_dir=gone
    --data_dir=gone is no folder: name one that has a sub-folder for each class.
$ --dataset=folder --data_dir=empty
    --data_dir=empty has no sub-folder: put each class's images into a folder of its own.
$ --dataset=csv --data_dir=gone.csv --text_column=a
    --data_dir=gone.csv is not there: name a CSV file, or a folder with train.csv and test.csv.
$ --dataset=csv --data_dir=rows.csv --text_column=nope
$ --dataset=csv --data_dir=rows.csv --text_column=text --label_column=nope
    There is no column 'nope': rows.csv has the columns text, label.
$ --dataset=csv --data_dir=rows.csv
    --dataset=csv takes one of --text_column, --feature_columns (separated by commas) and --image_column; …
$ --image_size=4
$ --image_size=4 --augment=crop
    image_size=4 is not that of digits, which stay 8 pixels wide: leave it at 0.
$ --image_size=16
    image_size=16 is not that of digits, which stay 8 pixels wide: leave it at 0.
$ --resize_size=4
$ --image_size=8 --resize_size=4
    resize_size=4 cuts a window from larger images, and digits are 8 pixels wide: leave it at 0.
$ --augment=spin
    Unknown augmentation 'spin' in 'spin'; choose from flip, crop, randaugment.
$ --augment=crop --image_size=9
    image_size=9 is not that of digits, which stay 8 pixels wide: leave it at 0.
$ --augment=randaugment:0:0
    'randaugment:0:0' is no augmentation (num_ops must be a positive integer; received 0.): write randaugment, or …
$ --augment=randaugment:a
    'randaugment:a' is no augmentation (invalid literal for int() with base 10: 'a'): write randaugment, or its …
$ --batch_size=5000
    --batch_size=5000 is larger than the training data, 1297 examples: lower it.
$ --train_examples=50
    --batch_size=100 is larger than the training data, 50 examples: lower it.
$ --meta_examples=50 --meta_objective=clid --meta_batch_size=51
    --meta_batch_size=51 is larger than the 50 training examples that meta batches are drawn from: lower it, or …
$ --meta_batch_size=20
    --meta_batch_size=20 is of no use where the given labels judge: leave it out, or give --meta_objective=clid.
$ --num_labels=5000
    --num_labels=5000 leaves no example without a label, of 1297 training examples: lower it.
$ --noise=hierarchical --noise_rate=0.5
    --noise=hierarchical needs the superclasses of CIFAR-100; received --dataset=digits.
$ --init_weights=gone.keras
    --init_weights=gone.keras is not there.
$ --init_weights=binary.cfg
    --init_weights=binary.cfg does not fit --backbone=digits_cnn (…
$ --init_weights=words.cfg
    --init_weights=words.cfg does not fit --backbone=digits_cnn (…
$ --init_weights=gone.weights.h5
    --init_weights=gone.weights.h5 is not there.
$ --init_weights=broken.keras
    broken.keras cannot be read as a network (it is no zip archive, as such files are): give …
$ --init_weights=broken.weights.h5
    --init_weights=broken.weights.h5 does not fit --backbone=digits_cnn (…
$ --init_weights=rows.csv
    --init_weights=rows.csv does not fit --backbone=digits_cnn (…
$ --warmup_epochs=60
    --warmup_epochs=60 takes up all of --epochs=60: lower it, or train for longer.
$ --method=fixmatch
    --method=fixmatch learns from examples without labels: give --num_labels, how many keep theirs.
$ --workdir=
    --workdir is empty: name a folder for the run.
$ --workdir=rows.csv
    --workdir=rows.csv is not empty and holds no run: choose another.
$ --workdir=rows.csv/run
    --workdir=rows.csv/run cannot be used (Not a directory): choose one that you may write to.
$ --workdir=full
    --workdir=full is not empty and holds no run: choose another.
$ --task=evaluate --workdir=gone
$ --task=audit --workdir=gone
$ --task=export --workdir=gone
    --workdir=gone holds no run (no config.cfg): train one first.
$ --task=evaluate --workdir=damaged
$ --task=audit --workdir=damaged
$ --task=train --workdir=damaged
    damaged/config.cfg is no config.cfg of a run of this version (invalid literal for int() with base 10: …
$ --task=export --workdir=binary
    binary/config.cfg is no config.cfg of a run of this version ('\udcff\udcfe' is no setting): mend it, …
$ --task=export --workdir=nothing
    nothing/config.cfg is no config.cfg of a run of this version (it holds no setting): …
$ --task=export --workdir=twice
    twice/config.cfg is no config.cfg of a run of this version (--epochs stands in it twice): …
$ --task=export --workdir=cut
    cut/config.cfg is no config.cfg of a run of this version ('--work' is no setting): …
$ --workdir=maybe
    maybe/config.cfg is no config.cfg of a run of this version ('maybe'): …
$ --task=evaluate --workdir=directory
    directory/config.cfg cannot be used (Is a directory): mend that and run the same again; what was saved before …
$ --task=export --workdir=unfinished
    --workdir=unfinished holds no source.json, which training writes: go on with the run, by --task=train.
$ --task=evaluate --workdir=unfinished
    --workdir=unfinished holds a run that is not finished: go on with it first, by --task=train.
$ --task=audit --workdir=unfinished
    --workdir=unfinished holds no checkpoint yet.
$ --task=export --workdir=source
    source/source.json is damaged (JSONDecodeError: …
$ --task=export --workdir=source2
    source2/source.json is damaged (KeyError: …
$ --workdir=summary
$ --task=evaluate --workdir=summary
    summary/summary.json is damaged (TypeError: …
$ --task=evaluate --workdir=summary2
    summary2/summary.json is damaged (KeyError: …
$ --task=evaluate --workdir=lost
    There is no model in lost/export/1: remove lost/summary.json and go on with the run by --task=train, which makes it from the last checkpoint.
$ --task=export --workdir=columns
    columns/preprocessing.keras cannot be read as a network (it is no zip archive, …
$ --task=export --workdir=search
    --workdir=search holds a search: give one of its trials, in search/trials.
$ --task=tune --tune_space=magic
    --method=clid_mu has no 'magic' to search: give --tune_space some of batch_size, learning_rate, …
$ --task=tune --tune_space=
    A search takes batch_size, learning_rate, meta_learning_rate, meta_batch_size, weight_net, temperature, …
$ --task=tune --strategy=multi_worker
    --strategy=multi_worker needs TF_CONFIG, such as '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, …
$ --task=tune --tune_space=learning_rate --learning_rate=0
    learning_rate must be above 0 to be searched; received 0.0.
$ --task=tune --workdir=unfinished
    --workdir=unfinished holds a run, not a search, which --task=tune is: choose another --workdir.
$ --test_split=train
    test_split='train' is of a TFDS data set, and digits is none: leave it at ''.
$ --train_split=test
    train_split='test' is of a TFDS data set, and digits is none: leave it at 'train'.
$ --label_key=worse_label
    label_key='worse_label' is of a TFDS data set, and digits is none: leave it at 'label'.
$ --dataset=folder --data_dir=photos --clean_label_key=label
    clean_label_key='label' is of a TFDS data set, and folder is none: leave it at ''.
$ --dataset=cifar10 --train_split=test --test_split=test
    train_split and test_split are both 'test', so that a run would be tested on what it has seen: name two splits.
$ --batch_size=1
    --batch_size must be 2 or more with --method=clid_mu, since weights count relative to each other in a batch; …
$ --meta_objective=clid --meta_batch_size=1
    --meta_batch_size must be 2 or more with --method=clid_mu, since weights count relative to each other in a …
$ --resume=false --workdir=unfinished
    --workdir=unfinished already holds this run: leave --resume on to go on with it, choose another --workdir, or …
$ --method=elr --workdir=unfinished
    --workdir=unfinished holds another run, which differs in --method=elr --elr_beta=0.7 --elr_penalty=3.0: choose …
$ --seed=3 --workdir=unfinished
    --workdir=unfinished holds another run, which differs in --seed=3: choose another --workdir, or remove that …
$ --dataset=folder --data_dir=photos --batch_size=2 --image_size=4 --augment=crop
    --augment=crop moves an image by up to 4 pixels, and these have 4: raise --image_size, or leave crop out.
"""

CALLS = r"""
>>> clidmu.CLIDMU(dense(), temperature=0)
    temperature must be above 0; received 0.
>>> clidmu.CLIDMU(dense(), temperature=-1)
    temperature must be above 0; received -1.
>>> clidmu.CLIDMU(dense(), temperature=float("inf"))
    temperature must be a finite number; received inf.
>>> clidmu.CLIDMU(dense(), prior_penalty=float("inf"))
    prior_penalty must be a finite number; received inf.
>>> clidmu.CLIDMU(dense(), warmup_steps=2.5)
    warmup_steps must be a whole number; received 2.5.
>>> clidmu.CLIDMU(dense(), meta_objective="magic")
    meta_objective must be one of auto, noisy_mae, clid, cross_entropy, mae; received 'magic'.
>>> clidmu.CLIDMU(dense(), virtual_scope="none")
    virtual_scope must be one of auto, all, last_block, head; received 'none'.
>>> clidmu.CLIDMU(dense(), weight_net="magic")
    weight_net must be one of wnet, vri; received 'magic'.
>>> clidmu.CLIDMU(dense(), meta_interval=0)
    meta_interval must be 1 or more; received 0.
>>> clidmu.CLIDMU(dense(), prior_penalty=-1)
    prior_penalty must be 0 or more; received -1.
>>> clidmu.CLIDMU(dense(), warmup_steps=-1)
    warmup_steps must be 0 or more; received -1.
>>> clidmu.CLIDMU(dense(), virtual_momentum=2)
    CLIDMU has no setting virtual_momentum; it has classifier, weight_net, meta_objective, temperature, …
>>> clidmu.CLIDMU(dense(), tempreature=1)
    CLIDMU has no setting tempreature; it has classifier, weight_net, meta_objective, temperature, class_balance, …
>>> clidmu.CLIDMU(dense(), inner="magic")
    inner must be one of none, co_teaching, dividemix, fixmatch, flexmatch, uda; received 'magic'.
>>> clidmu.CLIDMU(dense(), feature_layer="gone")
    feature_layer must be a layer of …
>>> clidmu.CLIDMU(None)
    classifier must be a keras.Model; received <class 'NoneType'>.
>>> clidmu.CLIDMU("resnet")
    classifier must be a keras.Model; received <class 'str'>.
>>> clidmu.CLIDMU(3)
    classifier must be a keras.Model; received <class 'int'>.
>>> clidmu.CLIDMU(layers.Dense(3))
    classifier must be a keras.Model; received <class 'keras.src.layers.core.dense.Dense'>.
>>> clidmu.CLIDMU(keras.Sequential([keras.Input((4,)), layers.Flatten()]))
>>> clidmu.audit(keras.Sequential([keras.Input((4,)), layers.Flatten()]), x, y)
    classifier must end in a Dense layer, with or without a softmax; …
>>> clidmu.CLIDMU(dense(3, "sigmoid"))
>>> clidmu.CLIDMU(dense(3, "relu"))
>>> clidmu.CLIDMU(dense(1, "softmax"))
    the last Dense layer …
>>> clidmu.CLIDMU(dense(), class_names=["a"])
>>> clidmu.CLIDMU(dense(), class_names=["a", "a", "b"])
    class_names must name the 3 classes of …
>>> clidmu.CLIDMU(dense()).compile("sgd", "mse")
>>> clidmu.CLIDMU(dense()).compile("sgd", loss="mse")
    compile() takes no loss, a method of this package brings its own: leave out 'mse'.
>>> clidmu.CLIDMU(dense()).compile("sgd", ["accuracy"])
    compile() takes metrics by name: write metrics=['accuracy']; it would be meta_optimizer where it stands.
>>> clidmu.CLIDMU(dense()).compile("sgd", steps_per_execution=4)
    compile() takes no steps_per_execution, every step is checked and counted by itself: leave out 4.
>>> clidmu.CLIDMU(dense()).compile("sgd", loss_weights=[1])
    compile() takes no loss_weights, there is one loss: leave out [1].
>>> clidmu.CLIDMU(dense()).compile("sgd", batch_scope="magic")
    batch_scope must be one of ('global', 'replica'); received 'magic'.
>>> clidmu.CLIDMU(dense()).compile("sgd", no_such=1)
    compile() takes no no_such, there is no such argument: leave out 1.
>>> model.fit(x, y + 1)
>>> model.evaluate(x, y + 1)
>>> model.label_weights(x, y + 1)
>>> clidmu.audit(dense(), x, y + 1)
    labels must be whole numbers from 0 to 2; received 3 at index 2 (10 of 30 are wrong).
>>> model.fit(x, y - 1)
    labels must be whole numbers from 0 to 2; received -1 at index 0 (10 of 30 are wrong).
>>> model.fit(x, ["a", "b"] * 15)
    labels have 2 names ('a', 'b') and the classifier 3 classes: give it 2, or name them all by class_names=.
>>> model.fit(x, [None] * 30)
    labels must not be missing; received None at index 0 (30 of 30 are missing).
>>> model.fit(x, y.astype("float32") + 0.5)
    labels must be whole numbers from 0 to 2 (values, as of a regression, are not supported); received 0.5 at …
>>> model.fit(x, np.eye(4)[y])
    labels must have shape (n,), (n, 1) or (n, 3); received (30, 4).
>>> model.fit(x, np.ones((30, 3)))
>>> model.fit(x, np.tile([1, 1, 0], (30, 1)))
    labels must be rows of 0 or more that sum to one (several labels an example, multi-label, are not supported); …
>>> model.fit(holed, y)
>>> model.label_weights(holed, y)
>>> clidmu.audit(dense(), holed, y)
    x must be finite; received nan at index 7: fill in what is missing, or leave the row out.
>>> model.fit(x, y, meta_data=x[:0])
    meta_data= is for other meta objectives: under 'noisy_mae' the given labels judge. Leave it out, or use …
>>> model.fit(table.assign(a="much"), y)
    x must hold numbers alone, or texts alone; received both: -0.13210485875606537 at index 0.
>>> model.fit(x)
>>> model.fit()
    x and y must hold the same examples, one or more; received no y.
>>> model.fit(x, y, batch_size=1)
    batch_size must be 2 or more, since weights count relative to each other in a batch; received 1.
>>> clidmu.audit(dense(), x, y, batch_size=0)
    batch_size must be 1 or more; received 0.
>>> clidmu.report(issues, x[:1])
    x must hold the inputs that were audited; received 1, and the table names number …
>>> model.fit(x, y[:3])
>>> model.evaluate(x, y[:3])
>>> model.label_weights(x, y[:3])
    x and y must hold the same examples, one or more; received lengths [3, 30].
>>> model.save("model.h5")
    model.h5 is of the old HDF5 format, which does not hold a method's own state: save to a .keras file.
>>> clidmu.CLID(temperature=0)
>>> clidmu.SnapshotEnsemble(x, temperature=0)
    temperature must be above 0 …
>>> clidmu.SnapshotEnsemble(x, k=0)
    k must be 1 or more; received k=0.
>>> clidmu.SnapshotEnsemble(x).ensemble()
>>> clidmu.SnapshotEnsemble(x).members()
>>> clidmu.audit(model, x, y, snapshots=clidmu.SnapshotEnsemble(x))
    No epoch was trained yet, so there is no snapshot.
>>> clidmu.ValidationCLID(x, temperature=-1)
    temperature must be above 0 …
>>> clidmu.WNet(0)
    hidden_units must be 1 or more; received 0.
>>> clidmu.GCE(dense(), q=0)
    q must be above 0 and 1 or less; received 0.
>>> clidmu.GCE(dense(), q=2)
    q must be above 0 and 1 or less; received 2.
>>> clidmu.MixUp(dense(), alpha=0)
    alpha must be above 0; received 0.
>>> clidmu.LabelSmoothing(dense(), smoothing=1.5)
    LabelSmoothing has no setting smoothing; it has classifier, amount, feature_layer, class_names, seed, name.
>>> clidmu.ELR(dense(), beta=2)
    beta must be 0 or more and below 1; received 2.
>>> clidmu.ELR(dense(), momentum=1)
    ELR has no setting momentum; it has classifier, beta, penalty, feature_layer, class_names, seed, name.
>>> clidmu.SmallLoss(dense(), threshold=2)
    SmallLoss has no setting threshold; it has classifier, weight_net, objective, warmup_epochs, meta_examples, …
>>> clidmu.CoTeaching(dense(), forget_rate=2)
    forget_rate must be 0 or more and below 1; received 2.
>>> clidmu.DivideMix(dense(), warmup_epochs=-1)
    warmup_epochs must be 1 or more; received -1.
>>> clidmu.FixMatch(dense(), threshold=2)
    threshold must be 0 or more and 1 or less; received 2.
>>> clidmu.FixMatch(dense(), unlabeled_ratio=0)
    unlabeled_ratio must be 1 or more; received 0.
>>> clidmu.UDA(dense(), threshold=-1)
    threshold must be 0 or more and 1 or less; received -1.
>>> clidmu.FlexMatch(dense(), ema_momentum=2)
    ema_momentum must be 0 or more and below 1; received 2.
>>> clidmu.MWNet(dense(), meta_objective="magic")
    MWNet has no setting meta_objective; it has classifier, warmup_steps, meta_interval, virtual_scope, …
>>> compiled(clidmu.FixMatch(dense())).fit(x, y)
    FixMatch learns from examples without labels too: pass unlabeled_data=, inputs like those of the labelled …
>>> compiled(clidmu.MWNet(dense())).fit(x, y)
    MWNet with meta_objective='cross_entropy' needs labelled meta data: pass meta_data=(inputs, labels) with …
>>> compiled(clidmu.ELR(dense())).fit(batches)
    ELR remembers each example: give arrays, or a dataset of batches (with_index(x, index), y) and num_examples=.
>>> clidmu.audit(dense(), x, y[:5])
    x and y must hold the same examples, one or more; received lengths [5, 30].
>>> clidmu.audit(dense(), x)
    x and y must hold the same examples, one or more; received no y.
>>> clidmu.audit(dense(), x, y, ids=["a"])
    ids must name all 30 examples; received 1.
>>> clidmu.audit(dense(), x, y, paths=["a"])
    paths must name all 30 examples; received 1.
>>> clidmu.audit(dense(), batches.repeat())
>>> model.label_weights(batches.repeat())
    batches must come to an end; received a dataset that repeats for ever: leave out repeat(), or take a part, as …
>>> clidmu.audit(dense(), batches.map(lambda a, b: a))
    batches must hold inputs and labels; these have no y.
>>> clidmu.report(issues, x, "gone/report.html")
    Could not write gone/report.html (No such file or directory): make room, or choose …
>>> clidmu.tune(build, (x, y), RATES, trials=0)
    trials takes whole numbers, 1 or more; received 0.
>>> clidmu.tune(build, (x, y), RATES, trials=-1)
    trials takes whole numbers, 1 or more; received -1.
>>> clidmu.tune(build, (x, y), RATES, trials=1.5)
    trials takes whole numbers, 1 or more; received 1.5.
>>> clidmu.tune(build, (x, y), RATES, trials=True)
    trials takes whole numbers, 1 or more; received True.
>>> clidmu.tune(build, (x, y), RATES, epochs=0)
    epochs takes whole numbers, 1 or more; received 0.
>>> clidmu.tune(build, (x, y), RATES, batch_size=0)
    batch_size takes whole numbers, 1 or more; received 0.
>>> clidmu.tune(build, (x, y), RATES, tuner="grid")
    tuner must be one of ('random', 'bayesian', 'hyperband'); received 'grid'.
>>> clidmu.tune(build, (x, y), RATES, objective="loss")
    objective must be one of ('noisy_accuracy', 'val_clid_ref', 'clean_accuracy'); received 'loss'.
>>> clidmu.tune(build, (x, y), RATES, objective="clean_accuracy")
    objective='clean_accuracy' needs clean_data=(x, y).
>>> clidmu.tune(build, (x, y), RATES, holdout=0)
>>> clidmu.tune(build, (x, y), RATES, holdout=1)
    data must be (x, noisy_y), arrays of one length, and holdout leave some on either side: holdout must be …
>>> clidmu.tune(build, (x, y), RATES, verbose=1)
    tune passes a verbose of its own to fit: leave it out.
>>> clidmu.tune(build, (x, y), RATES, callbacks=[])
    tune passes a callbacks of its own to fit: leave it out.
>>> clidmu.tune(build, (x, y[:3]), RATES)
    data must be (x, noisy_y), arrays of one length, and holdout leave some on either side: x and y must hold the …
>>> clidmu.tune(build, x, RATES)
    data must be (x, noisy_y), arrays of one length, and holdout leave some on either side: too many values to …
>>> clidmu.tune(build, (x, y), {"rate": (1.0, 0.1)})
>>> clidmu.tune(build, (x, y), {"rate": 0.1})
>>> clidmu.tune(build, (x, y), {"rate": []})
>>> clidmu.tune(build, (x, y), {"rate": ["a", 1]})
    space['rate'] must be a list of values of one kind, or a tuple of two numbers, the lower one first; received …
>>> clidmu.tune(build, (x, y), {"rate": (0.0, 1.0)})
    space['rate'] is drawn on a log scale, so it must start above 0; received (0.0, 1.0): give a list to have …
>>> clidmu.tune(build, (x, y), {"epochs": [1, 2]})
    space can't hold 'epochs', by which trials would not compare: give tune the most of them, and …
>>> clidmu.tune(build, (x, y), {"batch_size": [0]})
    space['batch_size'] takes whole numbers, 1 or more; received 0.
>>> clidmu.tune(build, (x, y), ["rate"])
    space must be a dict of ranges by name, such as {'temperature': (0.1, 2.5)}; received ['rate'].
>>> clidmu.tune(lambda hp: None, (x, y), RATES)
    build_model must return a compiled model of this package, such as CLIDMU; received a NoneType.
>>> clidmu.tune(lambda hp: clidmu.GCE(dense()), (x, y), RATES)
    build_model must return a compiled model of this package, such as CLIDMU; received a GCE that is not compiled.
>>> clidmu.noise.symmetric(y, 1.5, seed=0)
    rate must lie in [0, 1]; received 1.5.
>>> clidmu.noise.symmetric(y, -0.1, seed=0)
    rate must lie in [0, 1]; received -0.1.
>>> clidmu.noise.symmetric(y, 0.5, seed=-1)
    seed must be a non-negative integer; received -1.
>>> clidmu.noise.symmetric(y + 0.5, 0.5, seed=0)
    labels must be integers of shape (n,); received float64 of shape (30,).
>>> clidmu.noise.symmetric(y, 0.5, seed=0, num_classes=1)
    num_classes must be 2 or more; received 1.
>>> clidmu.noise.symmetric(y, 0.5, seed=0, num_classes=2)
    labels must lie in [0, 2); received values from 0 to 2.
>>> clidmu.noise.symmetric(y[:, None], 0.5, seed=0)
    labels must be integers of shape (n,); received int64 of shape (30, 1).
>>> clidmu.noise.asymmetric(y, 0.5, seed=0, mapping=[1])
    mapping needs length 3: got [1].
>>> clidmu.noise.asymmetric(y, 0.5, seed=0, mapping={0: 9})
    mapping must stay within [0, 3); received 0 -> 9.
>>> clidmu.tune(build, (x, y), {}, trials=1)
    space is empty, so there is nothing to search: give a range.
"""


def rows(table, mark):
    inputs = []
    for line in table.strip().splitlines():
        if line.startswith(mark):
            inputs += line.removeprefix(mark).split("  ")
        else:
            yield from ((given, line.strip()) for given in inputs)
            inputs = []


def assert_says(said, expected, given=""):
    flag, _, value = given.partition("=")
    expected = expected.replace("{flag}", flag)
    expected = expected.replace("{methods}", ", ".join(METHODS))
    expected = expected.replace("{value!r}", repr(value)).replace("{value}", value)
    if expected.endswith("…"):
        assert said.startswith(expected.removesuffix("…"))
    else:
        assert said == expected


# --- command lines


def words_of(line):
    """Environment and arguments, as a shell makes them of a line."""
    words = shlex.split(line.replace("\\", "\\\\"))
    words = [w.replace("\\n", "\n").replace("\\r", "\r") for w in words]
    variables = [word for word in words if re.match("[A-Z_]+=", word)]
    return dict(word.split("=", 1) for word in variables), words[len(variables) :]


FILES = {
    "binary.cfg": b"\xff\xfe\0",
    "words.cfg": b"--epochs=1\nbatch_size=10\n",
    "bad.cfg": b"--epochs=0\n",
    "nested.cfg": b"--flagfile=gone.cfg\n",
    "dashless.cfg": b"epochs 3\n",
    "unknown.cfg": b"--epoch=1\n",
    "rows.csv": b"text,label\na,b\nc,d\n",
    "empty/": b"",
    "full/thesis.tex": b"words",
    "broken.keras": b"PK\x03\x04 no",
    "broken.weights.h5": b"\x89HDF no",
    "damaged/config.cfg": b"--epochs=many\n",
    "binary/config.cfg": b"\xff\xfe",
    "nothing/config.cfg": b"# Run again\n",
    "cut/config.cfg": b"--task=train\n--work",
    "twice/config.cfg": b"--epochs=3\n--epochs=30\n",
    "maybe/config.cfg": b"--resume=maybe\n",
    "directory/config.cfg/": b"",
    "source/source.json": b"{",
    "source2/source.json": b'{"class_names": 3}',
    "summary/summary.json": b"[]",
    "summary2/summary.json": b'{"epochs": "x"}',
    "lost/summary.json": b'{"epochs": 60, "train_examples": 9, "last_accuracy": 0.5}',
    "columns/source.json": b'{"class_names": ["a"], "image_shape": [3], "steps": 1}',
    "columns/columns.json": b"{}",
    "columns/preprocessing.keras": b"no",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files and workdirs of every kind of wrong."""
    folder = tmp_path_factory.mktemp("folder")
    for run in (
        *("unfinished", "source", "source2", "summary", "summary2", "columns", "lost"),
    ):
        FILES[f"{run}/config.cfg"] = "\n".join(Config().flags()).encode()
    FILES["search/config.cfg"] = b"--task=tune"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
    for i in range(8):
        path = folder / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), 30 * i).save(path)
    return folder


FIRST_LOOK = """
import contextlib, io, json, os, sys
sys.modules["tensorflow"] = sys.modules["keras"] = None  # importing them fails
import clidmu_tf_command
from clidmu_tf.runs import cli
environment, found = {**os.environ}, []
for variables, words in json.load(sys.stdin):
    os.environ.clear()
    os.environ.update(environment | variables)
    sys.argv, said, code = ["train.py", *words], io.StringIO(), 0
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        with cli.explained():
            cli.first_look(sys.argv)
    found.append(said.getvalue())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def first_look(folder):
    """What is said of each line by a process that has no TensorFlow."""
    lines = [line for line, _ in rows(BEFORE_TENSORFLOW, "$ ")]
    process = subprocess.run(
        [sys.executable, "-c", FIRST_LOOK],
        input=json.dumps([words_of(line) for line in lines]),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(lines, json.loads(process.stdout), strict=True))


@pytest.mark.parametrize("line, sentence", rows(BEFORE_TENSORFLOW, "$ "))
def test_a_line_is_refused_before_tensorflow_starts(line, sentence, first_look):
    said = first_look[line]
    assert said.startswith("train.py: ") and said.count("\n") == 1
    assert_says(said.removeprefix("train.py: ").strip(), sentence, line)


@pytest.mark.parametrize("line, sentence", rows(IN_THE_PACKAGE, "$ "))
def test_a_line_is_refused_before_a_step_is_made(
    line, sentence, folder, cli, monkeypatch
):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(training, "fit", None)
    found = cli("--workdir=new", *words_of(line)[1])
    assert_refused(found)
    assert_says(found.err.removeprefix("train.py: ").strip(), sentence)
    assert not (folder / "new").exists()


# --- calls


def dense(units=3, activation=None):
    return keras.Sequential([keras.Input((4,)), layers.Dense(units, activation)])


def compiled(model):
    model.compile("sgd")
    return model


def build(hp):
    return compiled(clidmu.CLIDMU(dense()))


@pytest.fixture(scope="module")
def names():
    """What the calls name."""
    x = np.random.default_rng(0).normal(size=(30, 4)).astype("float32")
    y = np.arange(30) % 3
    holed = x.copy()
    holed[7, 1] = np.nan
    model = build(None)
    return globals() | {
        "x": x,
        "y": y,
        "holed": holed,
        "table": pd.DataFrame(x, columns=list("abcd")).astype(object),
        "batches": tf.data.Dataset.from_tensor_slices((x, y)).batch(10),
        "model": model,
        "issues": clidmu.audit(model, x, y),
        "RATES": {"rate": (0.1, 1.0)},
    }


@pytest.mark.parametrize("call, sentence", rows(CALLS, ">>> "))
def test_a_call_is_refused(call, sentence, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        eval(call, names)
    assert_says(" ".join(str(error.value).split()), sentence)
    assert not any(tmp_path.iterdir())
