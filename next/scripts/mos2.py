import json,sys,numpy as np,torch
torch.set_num_threads(1)
from llasa_lite import Llasa
from speechmos import dnsmos
mos=lambda w: dnsmos.run(np.clip(w,-1,1).astype(np.float64),16000)['p808_mos']
L=Llasa.from_pretrained('nano',device='cpu'); t=[l.strip() for l in open('/work/shared/heldout/sentences.txt')][60:84]
V=['joe','emma','heart','michael','george','sarah']; o=[]
for i,s in enumerate(t): o.append(mos(L.tts(s,voice=V[i%6],seed=i).wav))
print('tts mos',np.mean(o),np.std(o)/len(o)**.5,[round(float(np.mean(o[k::6])),2) for k in range(6)])
