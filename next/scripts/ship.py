"""ship.py LM CODEC TOK: make the package's nano (of the checkout in the working directory) of these."""
import sys,shutil,json,glob,os,numpy as np
lm,codec,tok=sys.argv[1:4]; N='llasa_lite/nano'
for f in glob.glob(codec+'/*.safetensors')+[codec+'/config.json',codec+'/model.safetensors.index.json']: shutil.copy(f,N+'/codec/')
for f in glob.glob(N+'/lm/*.safetensors'): os.remove(f)
for f in glob.glob(lm+'/*'):
    if os.path.isfile(f) and not f.endswith(('.jsonl','README.md','.lock','.csv')) and os.path.basename(f)!='begun.json': shutil.copy(f,N+'/lm/')
c=json.load(open(N+'/lm/config.json')); c['llasa']['codec']='nano'; json.dump(c,open(N+'/lm/config.json','w'),indent=2); open(N+'/lm/config.json','a').write('\n')
from llasa_lite.data import read_tokens,write_tokens
from llasa_lite.checkpoints import fingerprint,codec_source
old=read_tokens(N+'/tokens.safetensors'); new=read_tokens(tok)
key=lambda x:(x.text,x.speaker,x.split)
by={}
for x in new: by.setdefault(key(x),[]).append(x)
rows=[];lost={}
for x in old:
    if by.get(key(x)): rows.append(by[key(x)].pop(0))
    else: assert x.split!='test_speaker'; lost[x.split]=lost.get(x.split,0)+x.seconds
print('lost seconds',lost)
fast=('joe_','slt_','rms_','awb_')
more=[]
for split,seconds in lost.items():  # others of the same kind in their place
    spare=[x for l in by.values() for x in l if x.split==split and (split=='test' or x.speaker.startswith(fast))]
    np.random.default_rng(0).shuffle(spare); have=0
    for x in spare:
        if have>=seconds: break
        more.append(x); have+=x.seconds
    print(split,'in their place',have)
rows+=more
from dataclasses import replace
rows=[replace(x,alignment=None) for x in rows]
write_tokens(rows,N+'/tokens.safetensors',{'codec':'nano','fingerprint':fingerprint(codec_source('nano'))})
print(len(rows),sum(x.seconds for x in rows)/3600,'h; other fast rows',len(more),'size',os.path.getsize(N+'/tokens.safetensors'))
from llasa_lite import Llasa,Voice
L=Llasa.from_pretrained('nano',device='cpu')
for f in sorted(glob.glob(N+'/voices/*.json')):
    v=Voice.load(f); w=v.wav
    p=L.prepare(v.replace(codes={},timbre={},heard={})); clip=open(f.replace('.json','.clip.ogg'),'rb').read()
    p.save(f); open(f.replace('.json','.clip.ogg'),'wb').write(clip)  # the clip is not coded once more
    print(v.name,len(v.codes['nano']),len(p.codes['nano']),p.heard,p.timbre)
print(sum(os.path.getsize(os.path.join(d,f)) for d,_,fs in os.walk('llasa_lite') for f in fs if not f.endswith('.pyc'))/1e6,'MB')
