"""export.py RUN CODEC OUT [K]: mean of the last K checkpoints of `train lm` as a model folder."""
import sys,glob,re,torch,numpy as np
from safetensors.torch import load_file
run,codec,out=sys.argv[1:4]; k=int(sys.argv[4]) if len(sys.argv)>4 else 3
from llasa_lite.training import SpeechLM,nano_config,save_lm
from llasa_lite.tokens import Protocol,character_tokenizer
from llasa_lite.checkpoints import load_codec
c=load_codec(codec,'cpu',torch.float32); levels=list(c.model.config.quantization_levels)
p=Protocol(character_tokenizer(int(np.prod(levels))))
m=SpeechLM(nano_config(p,256,8),p.code_offset,levels)
cs=sorted(glob.glob(run+'/checkpoints/checkpoint-*'),key=lambda x:int(x.split('-')[-1]))[-k:]; print(cs)
def state(f):
    g=glob.glob(f+'/model.safetensors') 
    return load_file(g[0]) if g else torch.load(f+'/pytorch_model.bin',weights_only=True)
ss=[state(f) for f in cs]
mean={n:sum(s[n].float() for s in ss)/len(ss) for n in ss[0]}
print(m.load_state_dict(mean,strict=False)); save_lm(m,p,out,codec)
