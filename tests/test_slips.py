"""Slips of a first user, and what she is told: run apart, where no type checker speaks first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SLIPS = """
sl.add(d).when("predicting")                        #> no coefficient and no gate
sl.add(d).when(None)                                #> no coefficient and no gate
sl.add(d).when(d)                                   #> no coefficient and no gate
sl.add(d).when(at.prompt)                           #> give them to positions=
sl.add(d).when(lambda x: 0.5).on(m).run()           #> maps \\(batch, pos, ...\\) to a tensor
sl.add(d, coeff=["a"])                              #> Values a row
sl.add(d, coeff={1: 1.0, 9: 1.0})                   #> for layers 1, 9, and what is steered is at 1
sl.add(None)                                        #> Give a Direction
sl.add(b)                                           #> basis.compose
sl.ablate(d.vector)                                 #> Give a Direction
sl.steer(d)                                         #> is no transform
sl.steer(lambda x: -x, d.hook_name)                 #> is no transform
t.Add(b)                                            #> needs one Direction
t.Rotate(b, d)                                      #> needs one Direction
t.KeepNorm(d)                                       #> wraps a transform
t.KeepNorm(sl.add(d))                               #> wraps a transform
t.Affine(torch.ones(3), torch.ones(4))              #> share one shape
t.Affine(0.9, 0.0)                                  #> is a tensor of floats
t.Scale(d)                                          #> is a tensor of floats
t.MeanAblate(d, d)                                  #> is a tensor of floats
t.Clamp(d, high=float("nan"))                       #> NaN
t.RotateTo(d, d2, angle=float("nan"))               #> finite number of radians
t.Replace(torch.ones(4), by_index=True)             #> reference is a tensor
t.Interchange(d, torch.ones(2, 3, 32))              #> by_index=True
t.Interchange(d, {})                                #> reference is a tensor
s.Cosine(d.vector)                                  #> one Direction or Basis
s.Probe(b)                                          #> needs one Direction
s.Probe(d) > s.Probe(d)                             #> compared with a number
s.OfPrompt(s.Probe(d), "max")                       #> 'mean' or 'last'
s.Latch("x")                                        #> no coefficient and no gate
at.prompt and at.first(2)                           #> neither true nor false
sl.methods.steer2adapt.Search("randm")              #> 'random'
sl.methods.steer2adapt.prior(m, {"a": 1}, norm="u") #> 'unit'
sl.methods.steer2adapt.adapt(m, b, ["good"])        #> list of Choice
sl.methods.riser.Config(pool="max")                 #> 'last' or 'mean'
sl.methods.riser.Config(head="mlp")                 #> router's head is
sl.methods.riser.fit(m, c)                          #> fitted on Routes
sl.methods.e2e_dsas.Config(coeff=3)                 #> share from 0 to 1
sl.methods.dsas.fit(m, ["One day"])                 #> fitted on Sets.*got list
sl.methods.dsas.fit(m, c)                           #> control set
sl.methods.e2e_dsas.fit(m, c)                       #> control set
sl.methods.act.fit(m, ["One day"])                  #> fitted on Sets.*got list
sl.methods.lineas.fit(m, ["One day"])               #> fitted on Sets.*got list
sl.methods.repe.fit(m, ["One day"])                 #> fitted on a Contrast
sl.methods.angular.fit(m, ["One day"])              #> fitted on a Contrast
sl.methods.refusal.fit(m, ["One day"])              #> fitted on a Contrast
t.Extrapolate(t.KeepNorm(affine))                   #> whose strength is a share
t.Extrapolate(t.Replace(torch.ones(1, 2)))          #> whose strength is a share
t.Shift(torch.tensor([[1.0, torch.nan]]))           #> finite everywhere
sl.interventions.Group(())                          #> one part or more
s.Network(torch.ones(2, 3), torch.ones(3))          #> do not fit together
s.Routed(s.Network(torch.ones(2, 3), torch.ones(2)), 2) #> no weight 2
sl.add(d, positions=[1, 2])                         #> index\\(1\\) | index\\(2\\)
sl.add(d, positions=True)                           #> are no positions
sl.add(d, positions="good")                         #> matching
sl.add(d, positions=lambda w: w.index).on(m).run()  #> True or False a token
sl.add(d, positions="generated").on(m).run()        #> give prompt_lengths
sl.add(d).layers([1])                               #> as numbers: layers\\(3, 4\\)
sl.add(d).on("gpt2").run()                          #> Load the model first
sl.add(d).on(m, prompt_lengths=[0]).run()           #> one whole number a row
sl.add(d).on(m, prompt_lengths=4).run()             #> one whole number a row
sl.compare(sl.add(d), m, ["One day"])               #> a Steering. The model comes first: compare
sl.compare(m, d, ["One day"])                       #> got a Direction.*edit.as_steering\\(\\)
sl.views.heads(m, d, "One day", 1)                  #> A steering goes here; got a Direction
e.dose(sl.add(d), m, ["One day"])                   #> got a Steering. The model comes first
sl.demo.load_model("a/folder")                      #> load_model\\(folder=...\\)
task.scores(m, d)                                   #> A steering goes here; got a Direction
task.scores(sl.add(d), m)                           #> got a Steering. The model comes first
sl.save("steering.safetensors", sl.add(d))          #> got str. The value comes first: save\\(value
sl.collect(["One day"], m)                          #> got a list. The model comes first
sl.steer2edit(c, m)                                 #> got a Contrast. The model comes first
sl.attribute(c, c, d)                               #> got a Contrast. The model comes first
sl.views.projections(d, m, "One day")               #> got a Direction. The model comes first
e.perplexity(["One day"], m)                        #> got a list. The model comes first
e.base_items(["One day"], m)                        #> got a list. The model comes first
sl.collect(m, [5, 6])                               #> a list of one item or more; got .\\[5, 6\\]
sl.collect(m, [{"role": "user", "content": "hi"}])  #> a list of one item or more
sl.collect(m, torch.tensor([5, 6]))                 #> a list of one item or more
sl.collect(m, 5)                                    #> a list of one item or more; got '5'
sl.collect(m, [("a", "b", "c")])                    #> An item is a text
sl.collect(m, [[1, 999]])                           #> ids go from 0 to 47; an item has 1 to 999
sl.collect(m, [[1, -100]])                          #> an item has -100 to 1
sl.effect(m, sl.add(d), ["good"], (5, 6))           #> Answers are pairs of texts.*got 5
sl.find_directions(m, c, ["resid_post"])            #> is a name or a function; got
sl.views.tokens(sl.add(d))                          #> of a Trace; got a Steering
task.scores(m, sl.add(d), 2.0)                      #> Coefficients are a list.*got 2.0
e.doses(m, sl.add(d), ["good"], (x for x in [1.0])) #> Coefficients are a list
e.completions(m, ["good"], sl.add(d), coeffs=2.0)   #> Coefficients are a list
e.Neutral("x", (w for w in ["day"])).scores(m, 3)   #> A steering goes here; got a int
sl.compare(m, sl.add(d), "One day")                 #> on a list of one item or more
sl.Basis.of(d, d2)                                  #> Basis.of\\(\\[a, b\\]\\)
sl.Basis.of([d.vector])                             #> made of directions
sl.Contrast.from_pairs(["a", "b"])                  #> Pairs are
sl.find_directions(m, [("a", "b")])                 #> found in a Contrast
sl.Basis.of({"a": torch.ones(3)})                   #> made of directions
sl.Direction(d.hook_name, [1.0])                    #> is a tensor
sl.calibrate(m, sl.add(d), ["One day"])             #> calibrate\\(steering, model, prompts
sl.steer2edit(m, c, sl.add(d))                      #> give the direction that it was made from
sl.steer2edit(m, c, directions=d)                   #> takes no 'directions'. Nearest: 'direction'
sl.calibrate(d, m, ["One day"])                     #> sl.add makes a steering, of an edit
e.at_equal_dose(m, {"mean": d}, task, ["One day"])  #> Give a steering, such as sl.add
e.at_equal_dose(m, sl.add(d), task, ["One day"])    #> Give steerings by name
e.sweep(max, {"x": 3})                              #> are 3 alone
e.Continuation("x", "One day", len)                 #> needs a list of one item
sl.add(d).on(m)("One day")                          #> Enter it: `with steering.on\\(model\\):`
sl.add(d).on(m).generate("One day")                 #> Write `with steering.on\\(model\\):`
sl.add(d).trace(m).texts                            #> Write `with steering.trace\\(model\\) as
sl.views.tokens(sl.add(d).trace(m))                 #> Write .with steering.trace\\(model\\) as
sl.add(d).__enter__()                               #> Write `with steering.on\\(model\\):`
sl.collect(m, [["good", "day"]])                    #> tuple \\(prompt, completion\\)
sl.collect(m, [None])                               #> 'None' is no item
sl.collect(m, ["good"], 2)                          #> 2 is no hook point or site
sl.collect(m, ["good"], ("resid_post", 2))          #> by their names
sl.collect(m, ["good"], "blocks.9.hook_resid_post") #> layers 0 to 2
sl.collect(m, ["good"], "blocks.-1.hook_z")         #> layers 0 to 2
sl.views.heads(m, sl.add(d), "One day", 3)          #> layers 0 to 2
e.causal_check(m, c, d)                             #> needs one Direction; got Contrast
sl.methods.steer2adapt.prior(m, [c])                #> by name
sl.methods.steer2adapt.adapt(m, [d], ["good"])      #> are those of a Basis; got list
sl.Edit(()).export("folder", m)                     #> got a str. The model comes first
sl.load(m, "steering.safetensors")                  #> load\\(path, model
e.steering_sweep(m, sl.add(d), task, [1], [0, 2])   #> lambda layer: sl.add
sl.views.fronts(["add"])                            #> drawn of Points.*; got str
sl.Contrast.from_pairs([{"positive": "a"}])         #> from_jsonl
[each.run() for each in [sl.add(d).on(m)] * 2]      #> entered before
sl.report(sl.add(d), "a.html")                      #> where the report goes; got Steering
"""

PRELUDE = """
import re, sys, warnings
import torch
sys.path.insert(0, TESTS)
from models import D_MODEL, hosts, random_rows, tiny
import steerlens as sl
from steerlens import evaluation as e, positions as at, signals as s, transforms as t

m = tiny("llama", hosts()[0])
d = sl.Direction("blocks.1.hook_resid_post", torch.randn(D_MODEL), name="d")
d2 = sl.Direction("blocks.1.hook_resid_post", torch.randn(D_MODEL), name="d2")
b = sl.Basis.of([d, d2])
task = e.Neutral("plain", ["good day w1"])
c = sl.Contrast(["good day", "good"], ["bad day", "bad"])
affine = t.Affine(torch.ones(2), torch.zeros(2), None, None, d.hook_name)

def run(self):
    with self as model:
        model(random_rows([6])[0][None])

sl.waiting.Waiting.run = run
warnings.simplefilter("error")
for line in SLIPS.strip().splitlines():
    code, wanted = line.split("#>")
    try:
        eval(code)
    except (sl.SteerLensError, UserWarning) as error:
        told = str(error)
    except Exception as error:
        told = f"a bare {type(error).__name__}: {error}"
    else:
        told = "nothing"
    if not re.search(wanted.strip(), told):
        print(f"{code.strip()} told: {told}")
"""


@pytest.mark.host
def test_each_slip_is_told_clearly() -> None:
    tests = str(Path(__file__).parent)
    code = f"TESTS = {tests!r}\nSLIPS = {SLIPS!r}\n{PRELUDE}"
    root = str(Path(tests).parent)
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout == ""
